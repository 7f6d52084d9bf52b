"""Short runs of a recipe, through the one training loop: what the checks learn by training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from etude.engines.loop import LoopEngine
from etude.errors import EtudeError
from etude.recipe import Recipe
from etude.tasks.task import Task
from etude.torch_internals import DROPOUTS
from etude.training.observer import Observer
from etude.training.request import AdvanceRequest
from etude.training.run import Run
from etude.training.state.state import RunState
from etude.warning_filters import filters_kept

UPDATES = 10
"""The number of updates in which gradients are looked at."""

BEGINNING, SECONDS = 24, 2.0
"""The number of updates at the beginning of a run whose losses are looked at, and the largest
number of seconds for them."""

ALIKE = 1e-6
"""The largest relative difference of rows of a matrix that count as equal."""


def short_recipe(recipe: Recipe, steps: int, **changes: Any) -> Recipe:
    """Return a recipe for a few updates at a constant rate, without penalties.

    Args:
        recipe: The recipe to start from.
        steps: The number of updates.
        **changes: Other fields to set.

    >>> short_recipe(Recipe(lr=0.1, l2=0.01, schedule="cosine()"), 5).l2 is None
    True
    """
    plain: dict[str, Any] = {
        "schedule": "constant()", "schedules": {}, "accumulate": 1, "l1": None, "l2": None,
        "activity": None, "label_smoothing": None, "early_stopping": None, "evaluations": 1,
    }  # fmt: skip
    return recipe.replace(steps=steps, **{**plain, **changes})


def has_dropout(model: nn.Module) -> bool:
    """Return whether a model has a dropout layer."""
    return any(isinstance(module, DROPOUTS) for module in model.modules())


@dataclass
class GradientReach(Observer):
    """Notes which parameters get a gradient, and which one that is not 0.

    Attributes:
        trainable: The names of the parameters that are trained.
        reached: Those to which a gradient came.
        moved: Those whose gradient had an entry other than 0.
    """

    trainable: set[str] = field(default_factory=set)
    reached: set[str] = field(default_factory=set)
    moved: set[str] = field(default_factory=set)

    def on_gradient(self, state: RunState) -> None:
        """Look at every gradient."""
        for name, parameter in state.model.named_parameters():
            if not parameter.requires_grad:
                continue
            self.trainable.add(name)
            if parameter.grad is None:
                continue
            self.reached.add(name)
            if name not in self.moved and _has_entries(parameter.grad):
                self.moved.add(name)


def _has_entries(gradient: Tensor) -> bool:
    values = gradient.coalesce().values() if gradient.is_sparse else gradient
    return bool((values != 0).any())


@dataclass(frozen=True)
class FirstUpdates:
    """What the first updates of a recipe showed.

    Attributes:
        losses: The loss of each update.
        trainable: The parameters that are trained.
        reached: Those to which a gradient came.
        moved: Those whose gradient had an entry other than 0.
        alike: Matrices that still have equal rows afterwards.
        error: Why there are no updates; empty if there are.
    """

    losses: tuple[float, ...] = ()
    trainable: frozenset[str] = frozenset()
    reached: frozenset[str] = frozenset()
    moved: frozenset[str] = frozenset()
    alike: tuple[str, ...] = ()
    error: str = ""


@filters_kept()
def first_updates(
    task: Task, recipe: Recipe, device: torch.device, updates: int = UPDATES
) -> FirstUpdates:
    """Train a new run for a few updates, and return what its gradients showed.

    Args:
        task: The task.
        recipe: The recipe.
        device: Where to train.
        updates: The number of updates.
    """
    reach = GradientReach()
    try:
        run = Run(task, short_recipe(recipe, updates), device=device, observers=[reach])
        LoopEngine().advance([run], updates)
    except EtudeError as error:
        return FirstUpdates(error=str(error))
    alike = tuple(
        name
        for name, parameter in run.model.named_parameters()
        if name in reach.trainable and _rows_alike(parameter.detach())
    )
    run.release()
    return FirstUpdates(
        tuple(run.series["loss"]),
        frozenset(reach.trainable),
        frozenset(reach.reached),
        frozenset(reach.moved),
        alike,
    )


def _rows_alike(weights: Tensor) -> bool:
    """Return whether a matrix or kernel has several rows, all of them equal."""
    if weights.ndim < 2 or len(weights) < 2 or weights[0].numel() < 2:
        return False
    away = (weights - weights[:1]).abs().max()
    return bool(away <= ALIKE * weights.abs().max())


@dataclass(frozen=True)
class ShortRun:
    """The training losses of a short run.

    Attributes:
        losses: The loss of each update.
        complete: Whether all updates that were asked for are done.
        diverged: Whether a loss became NaN or Inf.
    """

    losses: tuple[float, ...]
    complete: bool
    diverged: bool

    @property
    def end(self) -> float:
        """The mean loss of the last tenth; infinite if the run diverged."""
        if self.diverged or not self.losses:
            return math.inf
        last = self.losses[-max(1, len(self.losses) // 10) :]
        return math.fsum(last) / len(last)


@filters_kept()
def short_run(
    task: Task,
    recipe: Recipe,
    device: torch.device,
    *,
    until: Callable[[Sequence[float]], bool] = lambda losses: False,
    seconds: float = math.inf,
) -> ShortRun:
    """Train a recipe, which is short itself, and return its losses.

    Args:
        task: The task.
        recipe: The recipe.
        device: Where to train.
        until: Asked before every update whether the losses so far are enough.
        seconds: The largest time; the run then stops where it is.

    Raises:
        EtudeError: If it cannot be trained.
    """
    run = Run(task, recipe, device=device)
    run.check()
    end = time.monotonic() + seconds

    def stop() -> bool:
        return time.monotonic() > end or until(run.series["loss"])

    LoopEngine().advance([run], AdvanceRequest(stop=stop))
    run.release()
    done = run.ended or until(run.series["loss"])
    return ShortRun(tuple(run.series["loss"]), done, run.diverged)


def beginning(task: Task, recipe: Recipe, device: torch.device) -> ShortRun:
    """Train the first updates of a recipe at a constant rate, and return their losses.

    Raises:
        EtudeError: If it cannot be trained.
    """
    return short_run(task, short_recipe(recipe, BEGINNING), device, seconds=SECONDS)


def _zeroed(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(torch.zeros_like(a) if isinstance(a, Tensor) else a for a in args)


def blind(task: Task) -> Task:
    """Return the same task with a network whose inputs are zeros."""

    def build() -> nn.Module:
        network = task.build()
        network.register_forward_pre_hook(_zeroed)
        return network

    return replace(task, model=build)
