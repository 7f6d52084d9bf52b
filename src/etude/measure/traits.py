"""Measures the traits of a task by which `match` ranks optimizers: sparsity, noise, curvature."""

from __future__ import annotations

import math
import statistics
from typing import Any

import torch
from torch import Tensor, nn

from etude.errors import TaskError
from etude.measure.gradient_norm import GradientNorm
from etude.measure.held_still import curved, held_still
from etude.measure.lanczos import spectrum
from etude.measure.noise_scale import noise_scale
from etude.optimizers.classes.hessian import Hessian
from etude.optimizers.match import Traits
from etude.optimizers.prior import centre_of, nice
from etude.randomness import random_state_kept
from etude.recipe import Recipe
from etude.tasks.sources.data import Cursor
from etude.tasks.task import Task, parameter_count
from etude.torch_internals import BATCH_NORMS
from etude.training.checks.validation import check_given
from etude.training.evaluation.evaluate import move
from etude.training.run import Run

SHARE, SHORTEST, LONGEST = 0.05, 20, 100
"""The share of the run that is trained before measuring, and its bounds in updates."""

PRODUCTS = 16
NORMS = (*BATCH_NORMS, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
TABLES = (nn.Embedding, nn.EmbeddingBag)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def measure(
    task: Task, recipe: Recipe | None = None, *, device: str | torch.device | None = None
) -> Traits:
    """Measure a task's traits after a short training with Adam at the prior's rate.

    It trains for 5% of the recipe's length, 20 to 100 updates, because the traits of untrained
    weights are not typical of training. The task is not changed.

    Args:
        task: The task.
        recipe: The recipe, whose batch size, precision and seed are used; None takes the task's
            defaults.
        device: As in `etude.train`.

    Returns:
        The traits, for `etude.optimizers.match.match`.

    Raises:
        TaskError: If model, data and loss do not fit together.

    Source: noise: McCandlish et al. 2018; curvature: Lanczos 1950 with Pearlmutter 1994.
    """
    check_given(task, recipe)
    recipe = recipe or Recipe(**task.defaults)
    run = Run(task, _short(task, recipe), device=device, observers=[GradientNorm(name="norm")])
    run.check()
    run.advance(min(LONGEST, max(SHORTEST, round(SHARE * run.length))))
    if run.diverged:
        raise TaskError(f"no trait could be measured: {run.reason}")
    noise = noise_scale(run, draws=6, parts=4)
    low, high, rms = _curvature(run)
    norms = [value for value in run.series["norm"] if math.isfinite(value)]
    tables, rows = _rows(run)
    total = parameter_count(run.model)
    inside = {id(p) for table in tables for p in table.parameters()}
    matrices = sum(
        p.numel()
        for p in run.model.parameters()
        if p.requires_grad and p.ndim == 2 and id(p) not in inside
    )
    return Traits(
        parameters=total,
        samples=run.task.train.samples,
        batch_size=run.batch_size * recipe.accumulate,
        depth=_depth(run.model),
        kinds=_kinds(run.model),
        matrices=matrices / total,
        tables=sum(t.weight.numel() for t in tables) / total,
        sparse=rows,
        lazy=any(getattr(m, "sparse", False) for m in run.model.modules()),
        noise=noise.samples,
        bursts=max(norms) / max(1e-30, statistics.median(norms)),
        sharpness=high,
        spread=high / rms if rms > 0 else math.nan,
        negative=min(0.0, low / high) if high > 0 else math.nan,
    )


def _short(task: Task, recipe: Recipe) -> Recipe:
    """Return the recipe with Adam, which can train any model, also with sparse gradients."""
    adam = Recipe(optimizer="sparse_adam").optimizer
    with random_state_kept(0):
        model = task.build()
    rate = nice(10 ** centre_of(model, task.train.targets(), adam))
    free: dict[str, Any] = {"lr_mult": None, "schedules": {}, "early_stopping": None}
    return recipe.replace(optimizer=adam, lr=rate, schedule="warmup(10) >> constant()", **free)


def _curvature(run: Run) -> tuple[float, float, float]:
    """Return the lowest, highest and rms eigenvalue of the Hessian on a batch; NaN without one."""
    parameters: list[Tensor] = [p for p in run.model.parameters() if p.requires_grad]
    data = run.task.train
    try:
        with held_still(run.model, data, 0), curved(run.model):
            batch = next(data.stream(run.batch_size, run.recipe.seed, Cursor(epoch=1)))
            loss, _, _ = run.task.forward(run.model, move(batch, run.device))
            hessian = Hessian(loss, parameters)
            signs = torch.randint(0, 2, (hessian.size,)).double() * 2 - 1
            found = spectrum(
                lambda v: hessian.times(v.to(hessian.gradient)).to(v), signs, iterations=PRODUCTS
            )
            return found.lowest, found.highest, found.rms
    except (TaskError, RuntimeError):
        return math.nan, math.nan, math.nan


def _rows(run: Run) -> tuple[list[nn.Embedding | nn.EmbeddingBag], float]:
    """Return the embedding tables, and the share of their rows without a gradient."""
    tables = [m for m in run.model.modules() if isinstance(m, TABLES) and m.weight.requires_grad]
    empty = total = 0
    for table in tables:
        gradient = table.weight.grad
        if gradient is None:
            continue
        dense = gradient.to_dense() if gradient.is_sparse else gradient
        empty += int((dense == 0).all(dim=1).sum())
        total += len(dense)
    return tables, empty / total if total else 0.0


def _kinds(model: nn.Module) -> frozenset[str]:
    kinds = {
        "convolution": CONVOLUTIONS,
        "recurrent": (nn.RNNBase, nn.RNNCellBase),
        "attention": (nn.MultiheadAttention,),
        "normalisation": NORMS,
        "embedding": TABLES,
        "linear": (nn.Linear,),
    }
    modules = list(model.modules())
    found = {name for name, types in kinds.items() if any(isinstance(m, types) for m in modules)}
    if any("attention" in type(m).__name__.lower() for m in modules):
        found.add("attention")
    return frozenset(found)


def _depth(model: nn.Module) -> int:
    """Return the number of weight layers; each level of a recurrent layer counts."""
    count = 0
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            count += module.num_layers
        elif isinstance(module, (nn.Linear, *CONVOLUTIONS, *TABLES)):
            count += 1
    return count
