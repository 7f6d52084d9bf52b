"""One update of a task whose step yields: one optimizer updates the parts of the model in turn."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from torch import Tensor

from etude.errors import BadValueError, TaskError
from etude.optimizers.row import OptimizerRow
from etude.recipe import Recipe
from etude.recipe_spikes import Rewind, Skip
from etude.tasks.loss.weighing import Scales
from etude.tasks.loss.weighted import WeightedLoss
from etude.tasks.sources.data import Batch
from etude.tasks.sources.shards import Shard
from etude.tasks.turns import parameters_of
from etude.training.gradient.accumulation import Accumulation
from etude.training.gradient.clipping import Clipper
from etude.training.gradient.param_groups import drop_gradients
from etude.training.regularisation import Penalty
from etude.training.state.state import RunState

Walk = Generator[tuple[str, WeightedLoss], None, None]

Prepare = Callable[[Clipper, str], dict[str, Any]]
"""Sets the rates, clips the gradient and returns measured values; called before each update."""


class Turns:
    """Updates the parts of a model in turn.

    After each `yield part, loss`, only the parameters of the part get the gradient of the loss,
    and the optimizer updates them before the step continues. It skips all parameters without
    gradient, including their momentum and weight decay. Losses that are yielded later are computed
    with the new weights.

    Accumulated batches advance together: the first losses of all batches form the first update.

    Args:
        state: The state of a run whose task has a step that yields; its optimizer has all parts.

    Raises:
        BadValueError: If the optimizer cannot update parts in turn, or the recipe penalises
            activations, skips or rewinds.

    Source: Goodfellow et al. 2014, arXiv:1406.2661, algorithm 1.
    """

    def __init__(self, state: RunState) -> None:
        _refuse(state.recipe, state.optimizer_spec)
        self.task, self.model, self.recipe = state.task, state.model, state.recipe
        self.optimizer, self.autocast = state.optimizer, state.autocast
        self.penalty = Penalty(self.model, self.recipe, state.rates)
        self.rates = state.rates
        self.joint = None if state.objective is None else state.objective.joint
        self.moved = False
        self._clippers: dict[str, Clipper] = {}

    def update(self, batches: Iterable[Batch], prepare: Prepare, *, eager: bool) -> dict[str, Any]:
        """Do one pass of the step, with an update after each yield.

        If an error is raised, `moved` says whether a part was already updated.

        Args:
            batches: The batches of the update.
            prepare: Called before each part's update.
            eager: Whether to stop before an update whose loss is not finite. Checking this waits
                for the device.

        Returns:
            'loss', the sum of all yielded losses; 'loss/part', the same for each part; 'penalty',
            the mean over the updates, if there is one; and the last values that `prepare` returned.
        """
        self.moved = False
        given = list(batches)
        walks = [
            self.task.turns(self.model, one.batch if isinstance(one, Shard) else one)
            for one in given
        ]
        self._shards = given if self.joint is not None else [None] * len(given)
        sums: dict[str, Any] = {}
        prepared: dict[str, Any] = {}
        count = 0
        try:
            for part, terms in self._turns(walks):
                count += 1
                _add(sums, f"loss/{part}", terms["loss"])
                for name, term in terms.items():
                    _add(sums, name, term)
                if eager and not math.isfinite(float(terms["loss"])):
                    break
                prepared |= prepare(self._clipper(part), f"/{part}")
                self.moved = True
                self.optimizer.step()
        finally:
            for walk in walks:
                walk.close()
        if "penalty" in sums:
            sums["penalty"] = sums["penalty"] / count
        return sums | prepared

    def _turns(self, walks: list[Walk]) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Run all batches to their next yield; the gradient is set when this generator yields."""
        while True:
            drop_gradients(self.optimizer)
            parts: list[str | None] = []
            update: Accumulation | None = None
            for walk, shard in zip(walks, self._shards, strict=True):
                turn = self._turn(walk, shard, watch=len(walks) > 1)
                parts.append(None if turn is None else turn[0])
                _refuse_disagreement(parts)
                if turn is not None:
                    update = update or self._accumulation(turn[0], len(walks))
                    self._gradient(update, *turn)
            if parts[0] is None or update is None:
                return
            sums = update.finish()
            if self.joint is not None:
                self.joint.average_of(update.parameters)
                sums = self.joint.mean(sums)
            yield parts[0], sums

    def _turn(self, walk: Walk, shard: Any, *, watch: bool) -> tuple[str, WeightedLoss] | None:
        """Run one batch to its next yield; return the part, and the loss with its weight."""
        joint = self.joint
        scales = Scales() if watch or joint is not None else None
        norms = nullcontext() if joint is None else joint.normalising(shard)
        with self.autocast(), norms, scales or nullcontext():
            turn = next(walk, None)
        if turn is None:
            return None
        part, loss = turn
        if scales is not None and loss.weight is None:
            loss = replace(loss, weight=scales.weight(loss.mean))
        return part, loss if joint is None else joint.joined(loss, shard)

    def _accumulation(self, part: str, count: int) -> Accumulation:
        parameters = self._clipper(part).parameters
        if self.rates is not None:
            frozen = {id(tensor) for tensor in self.rates.frozen_now.whole}
            parameters = [p for p in parameters if id(p) not in frozen]
        return Accumulation(count, parameters, only=True, joint=self.joint)

    def _gradient(self, update: Accumulation, part: str, loss: WeightedLoss) -> None:
        try:
            update.add(loss, self.penalty.value() if self.penalty else None)
        except RuntimeError as error:
            hint = ""
            if "modified by an inplace operation" in str(error):
                hint = (
                    "; what was computed before an earlier yield used weights that its update "
                    "has changed: compute it after that yield"
                )
            raise TaskError(f"the backward pass of part {part!r} failed: {error}{hint}") from error

    def _clipper(self, part: str) -> Clipper:
        """Return the clipper of a part's gradient."""
        if part not in self._clippers:
            self._clippers[part] = Clipper(parameters_of(self.model, part), self.recipe)
        return self._clippers[part]


def _refuse(recipe: Recipe, row: OptimizerRow) -> None:
    if not row.in_turns:
        why = (
            "evaluates the loss several times in an update"
            if row.closure
            else "remembers numbers that all parameters share"
        )
        raise BadValueError(
            f"the step yields, so that parts of the model take turns, and {row.name} {why}: use "
            "adam, adamw, rmsprop, sgd or another that updates each parameter by itself"
        )
    if isinstance(recipe.spikes, (Skip, Rewind)):
        raise BadValueError(
            f"spikes={recipe.spikes!r} judges the loss of a whole update, and a step that yields "
            "has updated some parts before the last loss is known: use spikes='zclip'"
        )
    if recipe.activity is not None:
        raise BadValueError(
            f"activity={recipe.activity:g} watches one forward pass, and a step that yields has "
            "one for each part: leave activity out, or add such a term to the losses you yield"
        )


def _refuse_disagreement(parts: list[str | None]) -> None:
    if parts[-1] != parts[0]:
        one, other = ("an end" if part is None else repr(part) for part in (parts[0], parts[-1]))
        raise TaskError(
            f"the batches of one update must yield the same parts in the same order, and one "
            f"came to {one} where another came to {other}: use accumulate=1, or let the step not "
            "depend on the batch"
        )


def _add(sums: dict[str, Any], name: str, term: Tensor) -> None:
    sums[name] = sums[name] + term if name in sums else term


def what_broke(values: Mapping[str, Any], loss: float) -> str:
    """Return a message about the loss that is not finite: of the first such part, or of the update.

    >>> what_broke({"loss": math.nan, "loss/critic": 0.5, "loss/generator": math.inf}, math.nan)
    "the training loss of 'generator' became inf"
    """
    for name, value in values.items():
        if name.startswith("loss/") and not math.isfinite(float(value)):
            part = name.removeprefix("loss/")
            return f"the training loss of {part!r} became {float(value)}"
    return f"the training loss became {loss}"
