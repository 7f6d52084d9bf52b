"""Whether the samples of a batch are independent: no output depends on another sample's input."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from etude.diagnosis.check.subject import Look, Subject
from etude.diagnosis.finding import Cause, Finding
from etude.errors import EtudeError
from etude.layerwise.flow import tensors_in
from etude.randomness import random_state_kept
from etude.tasks.sources.data import rows
from etude.torch_internals import BATCH_NORMS

SAMPLES = (7, 5, 6, 8, 4, 3, 2)
"""Numbers of samples in the batch: the first one that is no other size of an input is taken, so
that the axis of the samples is known by its length."""

SMALL = 1e-6
"""The gradient of another sample's input, relative to that of the sample's own, that counts as 0:
what is independent gives exactly 0."""

TABLES = ("embedding", "embedding_bag")
"""Calls whose result depends on weights too, and begins the path of a sample all the same."""


class _Leaves(TorchFunctionMode):
    """Cuts the graph at the first floating-point tensors that are made of whole numbers.

    Args:
        inputs: The whole numbers.
    """

    def __init__(self, inputs: Iterable[Tensor]) -> None:
        super().__init__()
        self.found: list[Tensor] = []
        self._held = list(inputs)  # their id() is not reused while they are held
        self._made = {id(tensor) for tensor in self._held}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not isinstance(result, Tensor):
            return result
        if not any(id(tensor) in self._made for tensor in tensors_in((args, kwargs))):
            return result
        if not result.is_floating_point():
            self._held.append(result)
            self._made.add(id(result))
            return result
        if result.requires_grad and getattr(func, "__name__", "") not in TABLES:
            return result  # it depends on a tensor that was found before
        result = result.detach().requires_grad_()
        self.found.append(result)
        return result


def independence(subject: Subject) -> Look:
    """Look whether the output of one sample depends on the inputs of another, by its gradient.

        d(output of sample i) / d(input of sample j) = 0 for every j other than i

    Whole numbers have no gradient: in their place stand the first floating-point numbers that are
    made of them, such as the rows of an embedding. Batch normalisation mixes samples on purpose,
    and computes with its running statistics here; it is named as the exception.

    Cost: one forward pass and two backward passes of at most 8 samples.
    """
    what = "whether samples are independent in a batch"
    batch = _few(subject.batch)
    if not subject.is_plain or batch is None:
        why = (
            "the task has a step of its own" if not subject.is_plain else "the batch cannot be cut"
        )
        return Look(unseen=f"{what}: {why}")
    count = rows(batch)
    if count < 2:
        return Look(unseen=f"{what}: the batch has one sample")
    if subject.task.train.samples is not None and subject.run.batch_size >= (
        subject.task.train.samples
    ):
        return Look(
            unseen=f"{what}: the batch is all the data, whose rows may belong together, as the "
            "nodes of one graph do"
        )
    network = subject.network()
    norms = _fix_norms(network)
    try:
        reached = _gradients(network, batch, count)
    except (EtudeError, RuntimeError, ValueError, TypeError, IndexError) as error:
        return Look(unseen=f"{what}: {type(error).__name__}: {error}")
    if reached is None:
        return Look(unseen=f"{what}: the output is not one tensor with a row for each sample")
    own, others, sample, other = reached
    if own == 0:
        return Look(unseen=f"{what}: the outputs do not depend on the inputs yet")
    seen = "the independence of samples in a batch"
    if norms:
        seen += f", but for batch normalisation ({norms[0]}{', ...' if len(norms) > 1 else ''})"
    if others <= SMALL * own:
        return Look(seen=seen)
    return Look(
        (
            Finding(
                Cause.SAMPLES_MIXED,
                evidence={"sample": sample, "other": other, "gradient": others, "own": own},
                text=f"The output of sample {sample} of a batch depends on the inputs of sample "
                f"{other} (gradient {others:.3g}, that of its own inputs {own:.3g}).",
                fix="Look for a reshape, a mean or a softmax over the batch axis, and for a "
                "recurrent layer that lacks batch_first=True.",
            ),
        ),
        seen,
    )


def _few(batch: Any) -> Any:
    """Return the first samples of a batch; None if it is not made of tensors."""
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        return None
    size = rows(batch)
    inputs = list(batch[:-1])
    if not all(isinstance(x, Tensor) and x.ndim and len(x) == size for x in inputs):
        return None
    others = {length for x in inputs for length in x.shape[1:]}
    count = next((n for n in SAMPLES if n <= size and n not in others), 1)
    return tuple(x[:count] for x in inputs)


def _gradients(
    network: nn.Module, batch: tuple[Tensor, ...], count: int
) -> tuple[float, float, int, int] | None:
    """Return the largest gradients, of the sample's own inputs and of another's, and who they are.

    The outputs of a sample are added with random weights, since their plain sum may be constant.
    """
    given = [x.detach().clone().requires_grad_() if _floats(x) else x for x in batch]
    leaves = _Leaves(x for x in given if not _floats(x))
    with random_state_kept(0), torch.enable_grad(), leaves:
        output = network(*given)
    outputs = [t for t in tensors_in(output) if t.requires_grad and t.ndim and len(t) == count]
    if not outputs:
        return None
    starts = [x for x in given if _floats(x)] + [t for t in leaves.found if len(t) == count]
    starts = [x for x in starts if x.ndim]
    if not starts:
        return None
    worst = (0.0, 0.0, 0, 0)
    for sample in (0, count - 1):
        draw = torch.Generator().manual_seed(sample)
        total = torch.stack([
            (t[sample].double() * torch.randn(t[sample].shape, generator=draw).to(t.device)).sum()
            for t in outputs
        ]).sum()  # fmt: skip
        found = torch.autograd.grad(total, starts, allow_unused=True, retain_graph=True)
        sizes = torch.stack([
            g.detach().double().abs().reshape(count, -1).amax(1).cpu()
            for g in found if g is not None and g.numel()
        ] or [torch.zeros(count, dtype=torch.float64)]).amax(0)  # fmt: skip
        own = float(sizes[sample])
        sizes[sample] = -1.0
        other = int(sizes.argmax())
        now = (own, float(sizes[other]), sample, other)
        worst = max(worst, now, key=lambda one: (one[1], one[0]))
    return worst


def _floats(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _fix_norms(network: nn.Module) -> list[str]:
    """Let batch normalisation use its running statistics, or do nothing; return the names."""
    found = []
    for name, module in network.named_modules():
        if isinstance(module, BATCH_NORMS):
            found.append(name)
            module.eval()
            if module.running_mean is None:
                module.forward = _unchanged  # type: ignore[method-assign, assignment]
    return found


def _unchanged(x: Tensor) -> Tensor:
    return x
