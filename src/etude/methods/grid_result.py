"""What a grid of rates showed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from etude.recipe import Recipe
from etude.record import Evaluation, Record, Status, to_json
from etude.shows_itself import ShowsItself
from etude.storage.tuning_folder import TuningFolder
from etude.trials.baseline import better
from etude.trials.score import Goal, mean
from etude.tuning.result import tie


@dataclass(frozen=True)
class GridRate:
    """One rate of a grid.

    Attributes:
        lr: The rate.
        records: What happened, for each seed; with folds, the mean over the folds.
    """

    lr: float
    records: tuple[Record, ...]

    @property
    def diverged(self) -> int:
        """How many seeds diverged."""
        return sum(record.status == Status.DIVERGED for record in self.records)

    @property
    def last(self) -> Evaluation | None:
        """The mean of the last evaluations over the seeds; None if one of them diverged."""
        if self.diverged or not all(record.evaluations for record in self.records):
            return None
        return mean([record.evaluations[-1] for record in self.records])

    @property
    def losses(self) -> tuple[float, ...]:
        """The final validation loss of each seed; infinite where it diverged."""
        return tuple(
            math.inf if one.status == Status.DIVERGED else one.valid_loss for one in self.records
        )


@dataclass(frozen=True, eq=False)
class GridResult(ShowsItself):
    """What a grid of rates showed.

    Attributes:
        recipe: The recipe, with the best rate.
        rates: Every rate, ascending.
        seeds: The seeds with which each was trained.
        folds: Into how many parts the training data was cut; 1 for none.
        goal: What is compared.
        untrained: The evaluation before training.
        constant: What the best constant output scores; None where the loss does not allow one.
        cost: In full runs of the recipe.
        seconds: Wall-clock time.
        record: The run of the first seed at the best rate; with folds, on all training data. None
            if no rate came to its end.
        cause: Why no rate came to its end, in a sentence; empty where that may be the rates.
        model: The network of this run. In memory only; a folder keeps its weights.
    """

    recipe: Recipe
    rates: tuple[GridRate, ...]
    seeds: tuple[int, ...]
    folds: int
    goal: Goal
    untrained: Evaluation
    constant: Evaluation | None
    cost: float
    seconds: float
    record: Record | None = None
    cause: str = ""
    model: Any = field(default=None, repr=False)

    @property
    def task(self) -> str:
        """The name of the task."""
        return self.rates[0].records[0].task

    @property
    def best(self) -> GridRate | None:
        """The rate with the best mean score over the seeds; None if every rate diverged."""
        ended = [one for one in self.rates if one.last is not None]
        found = min(ended, key=lambda one: self.goal.score(one.last), default=None)
        return found if found is not None and math.isfinite(self.goal.score(found.last)) else None

    @property
    def lr(self) -> float | None:
        """The best rate; None if every rate diverged."""
        return None if self.best is None else self.best.lr

    @property
    def tied(self) -> tuple[float, ...]:
        """The rates whose end cannot be told from the best's, the best included; ascending.

        The paired difference over the slices of the validation data, for all seeds, is at most 1%
        of the drop from the untrained score, or two standard errors; see `etude.tuning.result.tie`.
        """
        best = self.best
        if best is None or best.last is None:
            return ()
        drop = self.goal.score(self.untrained) - self.goal.score(best.last)
        return tuple(
            one.lr
            for one in self.rates
            if one.last is not None and (one is best or tie(one.last, best.last, drop, self.goal))
        )

    @property
    def at_edge(self) -> bool:
        """Whether the best rate is the lowest or the highest one."""
        return self.lr in (self.rates[0].lr, self.rates[-1].lr)

    @property
    def learned(self) -> bool:
        """Whether the best rate beats the untrained network and a constant, beyond noise."""
        last = None if self.best is None else self.best.last
        floors = [floor for floor in (self.untrained, self.constant) if floor is not None]
        return last is not None and all(better(last, floor, self.goal) for floor in floors)

    def advice(self) -> str:
        """Return what to do about the grid, in sentences; empty if all is well."""
        if self.cause:
            return self.cause
        if self.best is None:
            return (
                f"Every rate from {self.rates[0].lr:.3g} to {self.rates[-1].lr:.3g} diverged: "
                "give lower rates, or let `etude.diagnose` look for another cause."
            )
        if not self.learned:
            return (
                "No rate of the grid is better than the best constant output, or than the "
                "untrained network, by more than noise."
            )
        if not self.at_edge:
            return ""
        side, fix = ("lowest", "lower") if self.lr == self.rates[0].lr else ("highest", "higher")
        also = "one" if len(self.rates) == 1 else f"{side} one"
        return (
            f"The best rate is the {also} tried: the optimum may lie beyond it; give {fix} rates."
        )

    def plain(self) -> dict[str, Any]:
        """Return the result as plain values for JSON."""
        return {
            "task": self.task,
            "lr": self.lr,
            "tied": list(self.tied),
            "at_edge": self.at_edge,
            "objective": self.goal.name,
            "seeds": list(self.seeds),
            "folds": self.folds,
            "untrained_loss": to_json(self.untrained.loss),
            "constant_loss": None if self.constant is None else to_json(self.constant.loss),
            "cost": self.cost,
            "seconds": self.seconds,
            "advice": self.advice(),
            "recipe": self.recipe.plain(),
            "rates": [
                {
                    "lr": one.lr,
                    "losses": [to_json(loss) for loss in one.losses],
                    "metrics": [
                        None if r.valid_metric is None else to_json(r.valid_metric)
                        for r in one.records
                    ],
                    "diverged": one.diverged,
                    "tied": one.lr in self.tied,
                }
                for one in self.rates
            ],
        }

    def save(self, home: TuningFolder) -> None:
        """Write the result, and the best run with its model, into the grid's folder."""
        home.run.write_recipe(self.recipe)
        if self.record is not None:
            self.record.save(home.path)
            if self.model is not None and self.record.status == Status.FINISHED:
                home.run.save_model(self.model)
        home.write_result(self.plain())
