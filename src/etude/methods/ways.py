"""Each way to choose a rate on one task, with the full run that follows it."""

from __future__ import annotations

import math
from typing import TypeAlias

import torch

from etude.engines import Engine
from etude.methods.grid import grid
from etude.methods.grid_result import GridResult
from etude.methods.range_test import range_test
from etude.recipe import Recipe
from etude.record import Evaluation, Record, Status
from etude.tasks.task import Task
from etude.training.run import Run
from etude.training.train import train
from etude.trials.score import Goal
from etude.tuning.outcome import Outcome
from etude.tuning.tune import tune

Answer: TypeAlias = tuple[float | None, float, str]
"""A rate, or None; what it cost in full runs, that at the rate included; and what is said of it."""


class Ways:
    """The ways, and the full runs they were led to.

    Args:
        task: What to learn.
        recipe: How.
        goal: What is compared.
        objective: Its name, as `tune` takes it.
        maximize: As `tune` takes it.
        engine: What trains several runs.
        device: Where to train.

    Attributes:
        records: The full run at each rate that some way was led to, or passed.
        finished: The score of each.
        untrained: The evaluation before training.
    """

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        goal: Goal,
        objective: str,
        maximize: bool | None,
        engine: str | Engine | None,
        device: str | torch.device | None,
    ) -> None:
        self.task, self.recipe, self.goal = task, recipe, goal
        self.objective, self.maximize = objective, maximize
        self.engine, self.device = engine, device
        self.records: dict[float, Record] = {}
        self.finished: dict[float, float] = {}
        run = Run(task, recipe, device=device)
        run.check()
        self.untrained: Evaluation = run.evaluate()

    def default(self) -> Answer:
        """The recipe's own rate."""
        self._train(self.recipe.lr)
        return self.recipe.lr, 1.0, ""

    def range_test(self, rule: str) -> Answer:
        """The rate that a rule reads off a ramp."""
        found = range_test(self.task, self.recipe, rule=rule, device=self.device, progress=False)
        if found.lr is None:
            return None, found.cost, found.advice()
        self._train(found.lr)
        return found.lr, found.cost + 1.0, found.advice()

    def grid(self, rates: tuple[float, ...]) -> Answer:
        """The best of a grid, every rate of which is trained to its end."""
        found = self._grid(rates, 1)
        for one in found.rates:
            self._keep(one.lr, one.records[0])
        return found.lr, found.cost, found.advice()

    def folds(self, rates: tuple[float, ...], folds: int) -> Answer:
        """The best of a grid by cross-validation, then trained on all training data."""
        found = self._grid(rates, folds)
        if found.lr is not None and found.record is not None:
            self._keep(found.lr, found.record)
        return found.lr, found.cost, found.advice()

    def tuner(self, budget: float) -> Answer:
        """What the tuner finds."""
        found = tune(
            self.task,
            self.recipe,
            budget,
            objective=self.objective,
            maximize=self.maximize,
            engine=self.engine,
            device=self.device,
            progress=False,
        )
        if found.outcome == Outcome.NOTHING_TRAINS:
            return None, found.cost, found.advice()
        unfinished = found.outcome == Outcome.UNFINISHED
        if unfinished:
            self._train(found.lr)
        else:
            self._keep(found.lr, found.record)
        return found.lr, found.cost + unfinished, found.advice()

    def _grid(self, rates: tuple[float, ...], folds: int) -> GridResult:
        return grid(
            self.task,
            self.recipe,
            rates,
            folds=folds,
            objective=self.objective,
            maximize=self.maximize,
            engine=self.engine,
            device=self.device,
            progress=False,
        )

    def _train(self, lr: float) -> None:
        """Train a full run at a rate, unless one is known."""
        if lr not in self.records:
            self._keep(lr, train(self.task, self.recipe.replace(lr=lr), device=self.device))

    def _keep(self, lr: float, record: Record) -> None:
        if lr in self.records:
            return
        ended = record.status != Status.DIVERGED and bool(record.evaluations)
        self.records[lr] = record.without_model()
        self.finished[lr] = self.goal.score(record.evaluations[-1]) if ended else math.inf
