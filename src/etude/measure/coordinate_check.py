"""The coordinate check: does a layer's output change by the same amount at every width?

In a correct parametrisation, a few updates change the output of a layer by an amount that does not
depend on the width. If the change grows with the width, the rate is too high for a wide model; if
it shrinks, the layer does not learn in a wide model.

Source: Yang et al. 2022, "Tensor Programs V", arXiv:2203.03466, appendix D.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from etude.errors import BadValueError, TaskError, check_whole
from etude.layerwise.parts import kind_of
from etude.measure.held_still import held_still
from etude.randomness import random_state_kept
from etude.recipe import Recipe
from etude.tasks.sources.data import Cursor
from etude.tasks.task import Task
from etude.training.evaluation.evaluate import move
from etude.training.run import Run

WATCHED = ("linear", "convolution", "recurrent", "embedding")
"""The kinds of layers whose output is measured."""


@dataclass(frozen=True)
class LayerScale:
    """How one layer's output scales with the width.

    Attributes:
        layer: The name of the module.
        start: The mean of |x| before training, for each width.
        change: The mean of |x after − x before| over the seeds, for each width.
        slope: The slope of log(change) over log(width): 0 if the change does not depend on the
            width, 1 if it doubles when the width doubles.
        spread: The standard deviation of the slope over the seeds.
    """

    layer: str
    start: tuple[float, ...]
    change: tuple[float, ...]
    slope: float
    spread: float


@dataclass(frozen=True)
class CoordinateCheck:
    """The result of a coordinate check.

    Attributes:
        widths: The widths, ascending.
        layers: The layers, from input to output.
        tolerance: The largest |slope| that passes.
        steps: The number of updates of each run.
        seeds: The number of seeds.
    """

    widths: tuple[int, ...]
    layers: tuple[LayerScale, ...]
    tolerance: float
    steps: int
    seeds: int

    @property
    def failing(self) -> tuple[LayerScale, ...]:
        """The layers whose change depends on the width, largest |slope| first."""
        bad = [layer for layer in self.layers if not abs(layer.slope) <= self.tolerance]
        return tuple(sorted(bad, key=lambda layer: -abs(layer.slope)))

    @property
    def passed(self) -> bool:
        """Whether no layer's change depends on the width."""
        return not self.failing

    def verdict(self) -> str:
        """Return the result as a sentence, with the worst layer."""
        low, high = self.widths[0], self.widths[-1]
        if self.passed:
            steepest = max(abs(layer.slope) for layer in self.layers)
            return (
                f"passed: from width {low} to {high} the change of every layer stays the same "
                f"(slopes within ±{steepest:.2f}, {self.tolerance:g} is allowed)"
            )
        worst = self.failing[0]
        what = (
            "grows with the width: its rate is too high in a wide model"
            if not worst.slope < 0
            else "shrinks with the width: the layer does not learn in a wide model"
        )
        others = [layer.layer for layer in self.failing[1:]]
        more = f"; also {', '.join(others)}" if others else ""
        return (
            f"failed at {worst.layer}: the change of its output {what} "
            f"(slope {worst.slope:+.2f} ± {worst.spread:.2f}, {self.tolerance:g} is allowed){more}"
        )

    def plain(self) -> dict[str, Any]:
        """Return the result as plain values for JSON."""
        return {
            "passed": self.passed,
            "verdict": self.verdict(),
            "widths": list(self.widths),
            "tolerance": self.tolerance,
            "layers": [
                {
                    "layer": layer.layer,
                    "slope": layer.slope if math.isfinite(layer.slope) else None,
                    "spread": layer.spread if math.isfinite(layer.spread) else None,
                    "start": list(layer.start),
                    "change": [v if math.isfinite(v) else None for v in layer.change],
                }
                for layer in self.layers
            ],
        }


def coordinate_check(
    task_of_width: Callable[[int], Task],
    recipe: Recipe,
    *,
    widths: Sequence[int] = (64, 128, 256, 512),
    steps: int = 4,
    seeds: int = 3,
    tolerance: float = 0.25,
    device: str | torch.device | None = None,
) -> CoordinateCheck:
    """Train models of several widths for a few updates, and compare how their outputs change.

    The slope of each layer is a least-squares fit of log mean|x_steps − x_0| over log width, on one
    batch.

    Args:
        task_of_width: A function that builds the task with a model of a given width.
        recipe: The recipe; its rate is kept constant, and its length is not used.
        widths: At least two, each larger than the one before.
        steps: The number of updates; a few are enough.
        seeds: The number of seeds, from the recipe's seed on.
        tolerance: The largest |slope| that passes.
        device: As in `train`.

    Returns:
        The slope of each layer.

    Raises:
        BadValueError: If a number is out of bounds.
        TaskError: If the layers of two models differ, or a layer does not change.

    >>> from etude import tasks
    >>> check = coordinate_check(
    ...     lambda width: tasks.get("digits-mlp", width=width),
    ...     Recipe(lr=0.01, batch_size=64, lr_mult="mup(base_width=32)"),
    ...     widths=(32, 128),
    ... )
    >>> [layer.layer for layer in check.layers]
    ['layers.0.linear', 'layers.1.linear', 'head']
    """
    chosen = _check_widths(widths)
    steps, seeds = check_whole("steps", steps, 1), check_whole("seeds", seeds, 1)
    if not 0 < tolerance < 1:
        raise BadValueError(f"tolerance={tolerance!r}: give a slope between 0 and 1, such as 0.25")
    tasks = {width: task_of_width(width) for width in chosen}
    runs = [
        {
            width: _measure(tasks[width], recipe.replace(seed=recipe.seed + seed), steps, device)
            for width in chosen
        }
        for seed in range(seeds)
    ]
    names = list(runs[0][chosen[0]])
    for width in chosen:
        if list(runs[0][width]) != names:
            raise TaskError(
                f"the model of width {width} has other layers than the model of width {chosen[0]}: "
                "only the width may differ"
            )
    layers = tuple(_scale(name, chosen, runs) for name in names)
    return CoordinateCheck(chosen, layers, tolerance, steps, seeds)


def _check_widths(widths: Sequence[int]) -> tuple[int, ...]:
    chosen = tuple(widths)
    rising = all(a < b for a, b in pairwise(chosen))
    if len(chosen) < 2 or not rising or chosen[0] < 1:
        raise BadValueError(f"widths={list(chosen)}: give at least two, each larger than the last")
    return chosen


def _measure(
    task: Task, recipe: Recipe, steps: int, device: str | torch.device | None
) -> dict[str, tuple[float, float]]:
    """Return (mean |x| before, mean |change|) of each layer's output on one batch."""
    run = Run(task, recipe.replace(steps=steps, schedule="constant()"), device=device)
    data = run.task.train
    with random_state_kept(0), data.untouched():
        batch = move(next(data.stream(run.batch_size, recipe.seed, Cursor())), run.device)
    before = _outputs(run, batch)
    run.advance()
    after = _outputs(run, batch)
    if run.diverged:
        return {name: (float(x.abs().mean()), math.inf) for name, x in before.items()}
    return {
        name: (float(x.abs().mean()), float((after[name] - x).abs().mean()))
        for name, x in before.items()
    }


def _outputs(run: Run, batch: Any) -> dict[str, Tensor]:
    """Return the output of every measured layer for a batch, in the order of the modules."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            found[name] = first.detach().double()

        return hook

    handles = [
        module.register_forward_hook(keep(name or type(module).__name__))
        for name, module in run.model.named_modules()
        if kind_of(module) in WATCHED and any(True for _ in module.parameters(recurse=False))
    ]
    try:
        with torch.no_grad(), held_still(run.model, run.task.train, 0):
            run.task.forward(run.model, batch)
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise TaskError("the model has no linear, convolutional, recurrent or embedding layer")
    return found


def _scale(
    name: str, widths: tuple[int, ...], runs: list[dict[int, dict[str, tuple[float, float]]]]
) -> LayerScale:
    """Return how one layer scales: the mean of the slopes of all seeds."""
    starts = np.array([[run[width][name][0] for width in widths] for run in runs])
    changes = np.array([[run[width][name][1] for width in widths] for run in runs])
    if np.all(changes == 0):
        raise TaskError(f"{name} does not change: it is frozen, or its rate is 0")
    x = np.log(np.array(widths, dtype=np.float64))
    x -= x.mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(changes)
        slopes = ((logs - logs.mean(1, keepdims=True)) * x).sum(1) / (x * x).sum()
    slope = float(slopes.mean()) if np.isfinite(slopes).all() else math.inf
    spread = float(slopes.std(ddof=1)) if len(runs) > 1 and math.isfinite(slope) else 0.0
    return LayerScale(
        name,
        tuple(map(float, starts.mean(0))),
        tuple(map(float, changes.mean(0))),
        slope,
        spread,
    )
