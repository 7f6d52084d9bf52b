"""`compare_methods`: the ways to choose a rate, side by side on one task."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import torch

from etude import optimizers
from etude.engines import Engine
from etude.errors import BadTypeError, BadValueError, member, shown
from etude.methods.grid import default_rates
from etude.methods.ways import Ways
from etude.progress import bar
from etude.recipe import Recipe
from etude.record import Evaluation, Status, to_json
from etude.shows_itself import ShowsItself
from etude.tasks.sources.data import IndexedData
from etude.tasks.task import Task
from etude.training.checks.validation import check_given
from etude.trials.given_rates import checked_rates
from etude.trials.score import Goal, goal_for, usual_objective
from etude.tuning.tune import BUDGET
from etude.warning_filters import filters_kept


class Method(StrEnum):
    """A way to choose a rate; each is equal to its text."""

    DEFAULT = "default"
    RANGE_TEST = "range test"
    GRID = "grid"
    FOLDS = "folds"
    TUNER = "tuner"


@dataclass(frozen=True)
class MethodAnswer:
    """What one way of choosing a rate answered.

    Attributes:
        method: The way.
        lr: The rate; None where it gave none.
        cost: In full runs of the recipe: of the choice, and of the full run at the rate.
        seconds: Wall-clock time of both.
        loss: The validation loss at the end of the full run; infinite if it diverged, None without
            a rate.
        metric: The metric there.
        missed: The share of the drop that it missed: (score - best) / (untrained - best), at most
            1, where best is the best score of all full runs of the comparison; None where no run
            is better than untrained, or there is no rate.
        said: What the way says of its own answer; empty if nothing.
    """

    method: Method
    lr: float | None
    cost: float
    seconds: float
    loss: float | None
    metric: float | None
    missed: float | None
    said: str


@dataclass(frozen=True, eq=False)
class MethodComparison(ShowsItself):
    """The ways to choose a rate, side by side.

    Attributes:
        task: The name of the task.
        recipe: The recipe whose rate was chosen.
        goal: What is compared.
        answers: One for each way.
        untrained: The evaluation before training.
        finished: Every rate that was trained to the end of a full run, with its score.
    """

    task: str
    recipe: Recipe
    goal: Goal
    answers: tuple[MethodAnswer, ...]
    untrained: Evaluation
    finished: tuple[tuple[float, float], ...]

    @property
    def best(self) -> tuple[float, float] | None:
        """The rate with the best score of all full runs, and this score; None if all diverged."""
        found = min(self.finished, key=lambda pair: pair[1], default=(math.nan, math.inf))
        return found if math.isfinite(found[1]) else None

    def advice(self) -> str:
        """Return how far the comparison reaches, in sentences."""
        if self.best is None:
            return "Every full run diverged: there is nothing to compare."
        if self.best[1] >= self.goal.score(self.untrained):
            return "No full run is better than the untrained network: there is nothing to compare."
        return (
            f"All shares are of the drop to the best of {len(self.finished)} full runs with the "
            f"seed {self.recipe.seed}; a better rate may lie between or beyond them, and another "
            "seed gives other shares."
        )

    def plain(self) -> dict[str, Any]:
        """Return the result as plain values for JSON."""
        return {
            "task": self.task,
            "objective": self.goal.name,
            "best_lr": None if self.best is None else self.best[0],
            "untrained_loss": to_json(self.untrained.loss),
            "advice": self.advice(),
            "recipe": self.recipe.plain(),
            "methods": [
                {
                    "method": one.method,
                    "lr": one.lr,
                    "cost": one.cost,
                    "seconds": one.seconds,
                    "loss": None if one.loss is None else to_json(one.loss),
                    "metric": None if one.metric is None else to_json(one.metric),
                    "missed": one.missed,
                    "said": one.said,
                }
                for one in self.answers
            ],
        }


@filters_kept()
def compare_methods(
    task: Task,
    recipe: Recipe | None = None,
    *,
    methods: Iterable[str] | None = None,
    lrs: Iterable[float] | None = None,
    folds: int = 3,
    rule: str = "valley",
    budget: float = BUDGET,
    objective: str | None = None,
    maximize: bool | None = None,
    engine: str | Engine | None = None,
    device: str | torch.device | None = None,
    progress: bool | None = None,
) -> MethodComparison:
    """Choose a task's rate in several ways, and return what each costs and misses.

    The ways are the recipe's own rate ('default'), a 'range test', a 'grid', the same grid by
    cross-validation ('folds'), and the 'tuner'. Each ends with a full run at its rate, which its
    cost includes. All train with the recipe's seed.

    Args:
        task: What to learn.
        recipe: How. None takes the task's defaults.
        methods: The ways; None takes all that suit the task: no folds of data that cannot be
            indexed, no range test where parts of the model take turns.
        lrs: The rates of the grid; None takes those of `etude.grid`.
        folds: Into how many parts the training data is cut for cross-validation.
        rule: The rule of the range test.
        budget: The tuner's budget, in full runs.
        objective: What is compared; as in `etude.tune`.
        maximize: As there.
        engine: As there.
        device: As there.
        progress: Whether to draw a bar; None draws it at a terminal.

    Returns:
        The answers, with cost and share missed.

    Raises:
        UnknownNameError: If there is no way, or rule, of that name.
        BadValueError: If a value is out of bounds.
        TaskError: If model, data and loss do not fit together.

    >>> from torch.nn.functional import mse_loss
    >>> x = torch.linspace(-1, 1, 64)[:, None]
    >>> task = Task(lambda: torch.nn.Linear(1, 1), (x, 3 * x), loss=mse_loss)
    >>> flat = Recipe(optimizer="sgd", steps=80, batch_size=16)
    >>> found = compare_methods(task, flat, methods=["default", "grid"], lrs=[0.01, 0.1])
    >>> [(str(one.method), one.cost) for one in found.answers]
    [('default', 1.0), ('grid', 2.0)]
    """
    check_given(task, recipe)
    recipe = recipe or Recipe(**task.defaults)
    chosen = _suitable(task, recipe) if methods is None else _listed(methods)
    rates = default_rates(task, recipe) if lrs is None else checked_rates(lrs)
    aim = objective or usual_objective(task)
    goal = goal_for(task, aim, maximize)
    ways = Ways(task, recipe, goal, aim, maximize, engine, device)
    answers = []
    with bar(progress, task.name) as show:
        for done, method in enumerate(chosen):
            show(done, len(chosen), method)
            answers.append(_answer(ways, method, rates, folds, rule, budget))
    best = min(ways.finished.values(), default=math.inf)
    drop = ways.goal.score(ways.untrained) - best
    return MethodComparison(
        task.name,
        recipe,
        goal,
        tuple(replace(one, missed=_missed(one, ways, best, drop)) for one in answers),
        ways.untrained,
        tuple(sorted(ways.finished.items())),
    )


def _answer(
    ways: Ways, method: Method, rates: tuple[float, ...], folds: int, rule: str, budget: float
) -> MethodAnswer:
    started = time.perf_counter()
    match method:
        case Method.DEFAULT:
            lr, cost, said = ways.default()
        case Method.RANGE_TEST:
            lr, cost, said = ways.range_test(rule)
        case Method.GRID:
            lr, cost, said = ways.grid(rates)
        case Method.FOLDS:
            lr, cost, said = ways.folds(rates, folds)
        case Method.TUNER:
            lr, cost, said = ways.tuner(budget)
    seconds = max(0.0, time.perf_counter() - started)
    record = None if lr is None else ways.records[lr]
    if record is None:
        return MethodAnswer(method, None, cost, seconds, None, None, None, said)
    loss = math.inf if record.status == Status.DIVERGED else record.valid_loss
    return MethodAnswer(method, lr, cost, seconds, loss, record.valid_metric, None, said)


def _missed(one: MethodAnswer, ways: Ways, best: float, drop: float) -> float | None:
    """Return the share of the drop that an answer missed; 1 if its run diverged."""
    if one.lr is None or not drop > 0 or not math.isfinite(drop):
        return None
    score = ways.finished[one.lr]
    return min(1.0, (score - best) / drop) if math.isfinite(score) else 1.0


def _suitable(task: Task, recipe: Recipe) -> list[Method]:
    without = set()
    if not isinstance(task.train, IndexedData):
        without.add(Method.FOLDS)
    if task.alternates or optimizers.get(recipe.optimizer.name).rate_free:
        without.add(Method.RANGE_TEST)
    return [method for method in Method if method not in without]


def _listed(methods: Iterable[str]) -> list[Method]:
    if isinstance(methods, str) or not isinstance(methods, Iterable):
        raise BadTypeError(f"methods={shown(methods)}: give a list, such as ['grid', 'tuner']")
    found = [member(Method, one, "way to choose a rate") for one in methods]
    if not found:
        raise BadValueError("methods is empty: give at least one, such as ['grid', 'tuner']")
    return list(dict.fromkeys(found))
