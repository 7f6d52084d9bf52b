"""The objective of one update: the task's loss over its batches, plus the recipe's penalties."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from etude.errors import TaskError
from etude.layerwise.rates import Rates
from etude.model_copy import copy_model
from etude.optimizers.classes.hessian import PRICE
from etude.randomness import random_state_kept
from etude.recipe import Recipe
from etude.tasks.loss.weighted import WeightedLoss
from etude.tasks.sources.data import Batch
from etude.tasks.sources.shards import Shard
from etude.tasks.task import Task
from etude.training.gradient.accumulation import Accumulation, shares
from etude.training.gradient.param_groups import drop_gradients
from etude.training.own_hooks import OwnHooks
from etude.training.regularisation import Penalty, smoothed
from etude.training.state.snapshot import Snapshot, buffers_kept
from etude.training.world import SINGLE, JointGradient, World

Context = Callable[[], AbstractContextManager[Any]]

NO_ANSWERED_TARGET = (
    "an update has no answered target, so its mean loss is undefined: it has the loss 0 and the "
    "gradient 0, and momentum, weight decay and penalties still apply; leave out samples without a "
    "target, or give a larger batch_size or accumulate"
)


class Objective:
    """The loss of a run's updates, with the smoothing and the penalties of its recipe.

    Args:
        task: The task.
        model: The network.
        recipe: The recipe.
        autocast: A factory of the context of the forward pass.
        rates: The multipliers of the rate; what they freeze is not penalised.
        world: The processes that compute the gradient together.

    Attributes:
        joint: What computes the gradient with other processes; None in a single one.
        keeps: Returns whether `again` will be called after the update that begins; None if it is
            never called.
        factor: What the loss is multiplied by in the backward pass.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        recipe: Recipe,
        autocast: Context,
        rates: Rates | None = None,
        world: World = SINGLE,
    ) -> None:
        self.task = smoothed(task, recipe.label_smoothing) if recipe.label_smoothing else task
        self.model, self.autocast = model, autocast
        self.count = recipe.accumulate
        self.penalty = Penalty(model, recipe, rates)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        first = next(iter(self.parameters), None)
        # With a single batch the weight matters only if it is 0; on a CPU this is checked only if
        # the loss is NaN.
        self._watch = self.count > 1 or not (first is None or first.device.type == "cpu")
        self._is_bare = not self.penalty and isinstance(autocast(), nullcontext)
        self._warned = False
        self.keeps: Callable[[], bool] | None = None
        self.factor = 1.0
        self._kept: list[Batch] | None = None
        self._hooks = OwnHooks(model)
        self.joint: JointGradient | None = world.joint(
            self.task, model, recipe, self.penalty, autocast
        )

    def backward(self, batches: Iterable[Batch]) -> dict[str, Tensor]:
        """Add the gradient of the mean over all answered targets to that of the parameters.

        Returns:
            'loss', without the penalty; and 'penalty', if the recipe has one. `factor` multiplies
            neither, but the gradient.

        Raises:
            TaskError: If the model, the loss or the backward pass fails.
        """
        joint = self.joint
        update = Accumulation(self.count, self.parameters, joint=joint, factor=self.factor)
        self._kept = [] if self.keeps is not None and self.keeps() else None
        if joint is None:
            for batch in batches:
                self._add(update, batch)
        else:
            joint.each(batches, self.count, partial(self._add, update))
        sums = update.finish() if joint is None else joint.mean(update.finish())
        if update.is_empty and not self._warned:
            self._warned = True
            warnings.warn(NO_ANSWERED_TARGET, stacklevel=2)
        return sums

    def _add(self, update: Accumulation, batch: Batch) -> None:
        """Do the forward and backward pass of one batch."""
        if self._kept is not None:
            self._kept.append(batch)
        loss, penalty = self._forward(batch)
        try:
            update.add(loss, penalty)
        except RuntimeError as error:
            raise TaskError(f"the backward pass failed: {error}") from error

    def again(self) -> Tensor:
        """Return the objective of the newest update at the current weights.

        Of several processes, each returns that of its own share.

        Hooks that were attached to the model after this object was made are not called: they are
        those of observers, to whom this pass is none of the run's. A loss that is a module keeps
        its buffers.

        Raises:
            TaskError: If the batches of the update were not kept, or the loss fails.
        """
        if self._kept is None:
            raise TaskError("the batches of the update were not kept")
        loss = self.task.loss
        kept = buffers_kept(loss) if isinstance(loss, nn.Module) else nullcontext()
        with self._hooks.alone(), kept:
            return self.value(self._kept)

    def forget(self) -> None:
        """Drop the batches that were kept."""
        self.keeps = self._kept = None

    def value(self, batches: Iterable[Batch]) -> Tensor:
        """Return the mean over all answered targets, with the penalty and its graph."""
        pairs = [self._forward(batch, own=True) for batch in batches]
        losses = [loss.read() for loss, _ in pairs]
        terms = [loss.times(share) for loss, share in zip(losses, shares(losses), strict=True)]
        penalties = [penalty for _, penalty in pairs]
        whole = [
            term if penalty is None else term + penalty * (1 / len(pairs))
            for term, penalty in zip(terms, penalties, strict=True)
        ]
        return torch.stack(whole).sum()

    def _forward(self, batch: Batch, *, own: bool = False) -> tuple[WeightedLoss, Tensor | None]:
        """Return the loss of a batch, and the penalty if the recipe has one.

        Args:
            batch: The batch; of several processes, the share of this one.
            own: Whether other processes have no part in it.
        """
        if self.joint is not None and isinstance(batch, Shard):
            with self.autocast():
                return self.joint.own(batch) if own else self.joint.forward(batch)
        if self._is_bare:  # empty contexts take 1/50 of a small update
            return self._loss(batch), None
        if not self.penalty:
            with self.autocast():
                return self._loss(batch), None
        with self.penalty.watching(), self.autocast():
            loss = self._loss(batch)
        return loss, self.penalty.value()

    def _loss(self, batch: Batch) -> WeightedLoss:
        """Return the loss, with its weight if that makes a difference."""
        loss, output, target = self.task.weighed(self.model, batch, watch=self._watch)
        if self._watch or loss.weight is not None or not math.isnan(loss.mean.item()):
            return loss
        empty = has_no_answered_target(self.task, self.model, batch, (output, target))
        return replace(loss, weight=0.0) if empty else loss


def has_no_answered_target(
    task: Task, model: nn.Module, batch: Batch, answer: tuple[Any, Any] | None = None
) -> bool:
    """Return whether no target of a batch is answered, so that its mean loss is undefined.

    The random state and the model are not changed: a backward pass may still need the buffers as
    they are.

    Args:
        task: The task, which computes the loss.
        model: The network.
        batch: The batch of the loss.
        answer: Output and target of a task with `loss`, if they are known.
    """
    if task.alternates:
        return False
    try:
        with random_state_kept(), torch.no_grad():
            if answer is None or task.step is not None:
                weight = task.weighed(copy_model(model), batch)[0].weight
            else:
                weight = task.compare(*answer).weight
    except (TaskError, RuntimeError):  # torch cannot copy tensors with a graph
        return False
    return weight is not None and float(weight) == 0


def _total(parts: dict[str, Tensor]) -> Tensor:
    return parts["loss"] + parts["penalty"] if "penalty" in parts else parts["loss"]


class Closure:
    """The closure of one update: computes its objective at the current weights.

    Before each call, dropout masks, normalisation statistics and all other effects of the first
    one are reset, so that it is a function of the weights alone.

    Args:
        objective: The objective.
        batches: The batches of the update.
        optimizer: The optimizer, whose gradients are computed again.
        graph: Whether to return the loss with its graph, instead of setting the gradient.
        draws: Whether the model also uses Python's and NumPy's random generators.
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
        self._undo = Snapshot(objective.model, draws)
        self._known: Tensor | None = None

    def first(self) -> dict[str, Tensor]:
        """Compute the gradient at the start of the update, for the optimizer's first call."""
        sums = self.objective.backward(self.batches)
        self._known = _total(sums)
        return sums

    def __call__(self) -> Tensor:
        """Return the loss with the penalty."""
        if self._known is not None and not self.graph:
            known, self._known = self._known, None
            return known
        self.count += 1
        self._undo.restore()
        if self.graph:
            return self.objective.value(self.batches)
        drop_gradients(self.optimizer)
        return _total(self.objective.backward(self.batches))


def take_step(optimizer: Optimizer, again: Closure | None) -> int:
    """Do the optimizer's update; return the number of gradients computed after the first one."""
    if again is None:
        optimizer.step()
        return 0
    before = getattr(optimizer, "products", 0)
    optimizer.step(again)  # type: ignore[arg-type]
    return again.count + PRICE * int(getattr(optimizer, "products", 0) - before)
