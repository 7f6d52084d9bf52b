"""What one update minimises: the task's loss over its batches, with what the recipe adds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from etude.errors import TaskError
from etude.optimizers.hessian import PRICE
from etude.recipe import Recipe
from etude.tasks.data import Batch
from etude.tasks.task import Task
from etude.training.regularisation import Penalty, smoothed
from etude.training.undo import Undo

Context = Callable[[], AbstractContextManager[Any]]


class Objective:
    """The loss of a run's updates, smoothed and penalised as its recipe says.

    Args:
        task: What to learn.
        model: The network.
        recipe: How.
        autocast: A factory of the context the forward pass runs in.
    """

    def __init__(self, task: Task, model: nn.Module, recipe: Recipe, autocast: Context) -> None:
        self.task = smoothed(task, recipe.label_smoothing) if recipe.label_smoothing else task
        self.model, self.autocast = model, autocast
        self.count = recipe.accumulate
        self.penalty = Penalty(model, recipe)

    def backward(self, batches: Iterable[Batch]) -> dict[str, Tensor]:
        """Add the gradient of the mean over the batches to that of the parameters.

        Returns:
            'loss', without the penalty; and 'penalty', where the recipe has one.

        Raises:
            TaskError: If the model, the loss or the backward pass fails.
        """
        sums: dict[str, Tensor] = {}
        for batch in batches:
            parts = self._parts(batch)
            try:
                torch.autograd.backward(_total(parts))
            except RuntimeError as error:
                raise TaskError(f"the backward pass failed: {error}") from error
            for name, part in parts.items():
                value = part.detach()
                sums[name] = sums[name] + value if name in sums else value
        return sums

    def value(self, batches: Iterable[Batch]) -> Tensor:
        """Return the mean over the batches, penalty included, with its graph."""
        return torch.stack([_total(self._parts(batch)) for batch in batches]).sum()

    def _parts(self, batch: Batch) -> dict[str, Tensor]:
        if not self.penalty:
            with self.autocast():
                loss, _, _ = self.task.forward(self.model, batch)
            parts = {"loss": loss}
        else:
            with self.penalty.watching(), self.autocast():
                loss, _, _ = self.task.forward(self.model, batch)
            parts = {"loss": loss, "penalty": self.penalty.value()}
        if self.count > 1:
            parts = {name: part * (1 / self.count) for name, part in parts.items()}
        return parts


def _total(parts: dict[str, Tensor]) -> Tensor:
    return parts["loss"] + parts["penalty"] if "penalty" in parts else parts["loss"]


class Again:
    """The closure of one update: its objective at whatever the weights now are.

    Dropout masks, normalisation statistics and every other trace of the first evaluation are
    put back before each, so that it is one function of the weights.

    Args:
        objective: What is minimised.
        batches: Those of the update.
        optimizer: Whose gradients are set anew.
        graph: Whether to return the loss with its graph, instead of setting the gradient.
        draws: Whether the model draws from Python's and NumPy's generators too.
    """

    def __init__(
        self,
        objective: Objective,
        batches: list[Batch],
        optimizer: Optimizer,
        *,
        graph: bool,
        draws: bool,
    ) -> None:
        self.objective, self.batches, self.optimizer = objective, batches, optimizer
        self.graph = graph
        self.count = 0
        self._undo = Undo(objective.model, draws)
        self._known: Tensor | None = None

    def first(self) -> dict[str, Tensor]:
        """Compute the gradient where the update begins; the optimizer's first call is spared."""
        sums = self.objective.backward(self.batches)
        self._known = _total(sums)
        return sums

    def __call__(self) -> Tensor:
        """Return the loss, penalty included."""
        if self._known is not None and not self.graph:
            known, self._known = self._known, None
            return known
        self.count += 1
        self._undo.restore()
        if self.graph:
            return self.objective.value(self.batches)
        self.optimizer.zero_grad(set_to_none=True)
        return _total(self.objective.backward(self.batches))


def go(optimizer: Optimizer, again: Again | None) -> int:
    """Let an optimizer do its update; return the gradients it took beyond the first."""
    if again is None:
        optimizer.step()
        return 0
    before = getattr(optimizer, "products", 0)
    optimizer.step(again)  # type: ignore[arg-type]
    return again.count + PRICE * int(getattr(optimizer, "products", 0) - before)
