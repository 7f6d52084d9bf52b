"""Estimates the rate at which a search begins, from optimizer and model size; never a bound."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from etude import optimizers
from etude.optimizers.adapters import Adapter, middle, mostly
from etude.optimizers.choice import OptimizerChoice

ATTENTION = -0.9
"""Decades from the optimizer's centre to the highest rate at which the search for a model with
attention begins: 0.0025 for AdamW. Rates in use are 0.0006 to 0.001 (GPT-2, ViT), and up to 0.003
for small models."""

LORA, LORA_ATTENTION, LORA_POWER = -1.5, -0.6, -0.5
"""log10 of AdamW's rate for adapters with alpha 16 at layers of 64 inputs, what attention adds to
it, and the exponent of alpha and of the inputs; see `lora_centre`."""


def centre_of(model: nn.Module, targets: int | None, optimizer: OptimizerChoice) -> float:
    """Return log10 of the rate around which a search for a model begins.

    For a model of which low-rank adapters are trained, see `lora_centre`; for others,
    `log10_centre`.

    Args:
        model: The network.
        targets: The number of labels, tokens or samples of the training data; None if unknown.
        optimizer: The optimizer of the recipe.
    """
    row = optimizers.get(optimizer.name)
    if row.family != "sgd" and not row.rate_free and (found := mostly(model)):
        return lora_centre(found, optimizer, attention=has_attention(model))
    return log10_centre(
        optimizer,
        sum(p.numel() for p in model.parameters() if p.requires_grad),
        targets,
        attention=has_attention(model),
    )


def lora_centre(
    found: tuple[Adapter, ...], optimizer: OptimizerChoice, *, attention: bool = False
) -> float:
    """Return log10 of the rate around which a search for low-rank adapters begins.

    -1.5 - 0.5 · log10(alpha / 16) - 0.5 · log10(inputs / 64), and 0.6 less with attention, for
    AdamW; for another optimizer, its centre minus AdamW's is added. alpha is scaling · rank, so
    that the rank matters only where the scaling is not alpha / rank. Medians over the adapters are
    used.

    Fitted to small networks of 64 to 128 inputs (benchmarks/results/lora.md) and to the rate that
    is published for language models of about 2,000: ten times full fine-tuning, 5e-4 at alpha 32,
    whatever the rank. In the small networks LoRA's best rate is 0.5 to 4 times that of full
    fine-tuning.

    Args:
        found: The adapters that are trained, one at least.
        optimizer: The optimizer of the recipe.
        attention: Whether the model has attention.

    Source: Schulman et al. 2025, "LoRA without regret", thinkingmachines.ai/blog/lora.

    >>> adapter = Adapter("lora_A", rank=16, inputs=2_048, scaling=2.0, scalars=65_536)
    >>> round(10 ** lora_centre((adapter,), OptimizerChoice("adamw"), attention=True), 4)
    0.001
    """
    _, alpha, inputs = middle(found)
    shift = optimizers.get(optimizer.name).centre - optimizers.get("adamw").centre
    size = math.log10(alpha / 16) + math.log10(inputs / 64)
    return LORA + LORA_POWER * size + (LORA_ATTENTION if attention else 0.0) + shift


def has_attention(model: nn.Module) -> bool:
    """Return whether the name of a module's class contains 'attention'."""
    return any("attention" in type(module).__name__.lower() for module in model.modules())


def log10_centre(
    optimizer: OptimizerChoice,
    parameters: int,
    targets: int | None,
    *,
    attention: bool = False,
) -> float:
    """Return log10 of the rate around which a search begins.

    c - 0.45 * clip(log10(parameters / targets), -1.5, 2), where c is the optimizer's centre. For
    SGD, c holds for momentum 0.9; log10((1 - momentum) / 0.1) is added for another momentum. The
    formula was fitted on 47 small tasks, where the ratio correlates -0.68 with the best rate. For
    an optimizer that chooses its step size, the result is its centre, whatever the sizes.

    Args:
        optimizer: The optimizer of the recipe.
        parameters: The number of trainable scalars in the model.
        targets: The number of labels, tokens or samples to learn from; None if unknown.
        attention: Whether the model has attention, for which the search begins lower.

    >>> round(log10_centre(OptimizerChoice("adamw"), 10_000, 1_000), 2)
    -2.05
    """
    row = optimizers.get(optimizer.name)
    centre = row.centre
    if row.centre_share is not None:
        centre += math.log10((1 - optimizer.value("momentum")) / row.centre_share)
    if row.rate_free:
        return centre
    ratio = 1.0 if targets is None else max(1, parameters) / max(1, targets)
    fitted = centre - 0.45 * min(2.0, max(-1.5, math.log10(ratio)))
    return min(fitted, centre + ATTENTION) if attention else fitted


LOWEST = 1e-15
"""The lowest rate that is tried in any precision."""


def lowest_rate(parameters: Iterable[Tensor]) -> float:
    """Return the lowest rate to try: max(1e-15, eps² / 100) for the weights' precision.

    At a lower rate, a gradient of the size of the loss no longer changes any weight.

    >>> f"{lowest_rate([torch.zeros(1, dtype=torch.float16)]):.1e}", lowest_rate([torch.zeros(1)])
    ('9.5e-09', 1e-15)
    """
    eps = [torch.finfo(p.dtype).eps for p in parameters]
    return max(LOWEST, min(eps, default=0.0) ** 2 / 100)


def nice(rate: float) -> float:
    """Round a rate to three significant digits, so that it can be read and typed.

    >>> nice(0.0031622776)
    0.00316
    """
    return float(f"{rate:.3g}")


def grid(centre: float, count: int, spacing: float) -> list[float]:
    """Return `count` rates, `spacing` decades apart, around 10**centre.

    >>> grid(-2.0, 3, 0.5)
    [0.00316, 0.01, 0.0316]
    """
    return [nice(10 ** (centre + spacing * (i - (count - 1) / 2))) for i in range(count)]
