"""Trials of a table with their slices, so that the tuner's own verdict can be replayed on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import safetensors

from benchmarks import contest, evidence, table
from benchmarks.fresh_regret import start, table_of
from benchmarks.table import Entry, Field, Table
from etude.recipe import Recipe
from etude.record import Evaluation
from etude.tasks.task import Task
from etude.training.run import Run
from etude.trials.baseline import constant_score
from etude.trials.score import Goal
from etude.tuning.assessment import Assessment, assess
from etude.tuning.search.ladder import ladder_for
from etude.tuning.search.search import Search

LENGTH = 1600
"""Updates of a run: every pause is a whole number of them."""


@cache
def slices(name: str) -> np.ndarray:
    """Return the losses of slices, by (pause, seed, rate, of the weights or of their mean)."""
    with safetensors.safe_open(evidence.DATA / f"{name}.safetensors", "numpy") as kept:
        return np.asarray(kept.get_tensor("parts"), dtype=float)


@cache
def floor(name: str) -> Evaluation | None:
    """Return what the best constant output scores; None where there is none."""
    task = evidence.get(name)
    found = constant_score(Run(task, Recipe(**task.defaults)))
    if found is None:
        return None
    return Evaluation(0, found.loss, None, tuple(map(float, evidence.slices(found))))


class Replayed(Entry):
    """One rate of a table as an assessment reads it."""

    length = LENGTH

    @property
    def reached(self) -> int:
        """Updates that were asked for."""
        return round(self.share * LENGTH)

    @property
    def steps(self) -> int:
        """Updates that were made."""
        return round(min(self.share, self.end) * LENGTH)

    @property
    def ended(self) -> bool:
        """Whether it came to its end."""
        return self.share >= 1 and not self.diverged

    @property
    def floor(self) -> Evaluation | None:
        """What it must beat."""
        untrained = Evaluation(0, float(self.table.untrained[self.seed]))
        return floor(self.table.task) or untrained

    def evaluated(self) -> list[Evaluation]:
        """Return its evaluations so far."""
        curve = self.curve()
        pairs = zip(curve.shares, curve.scores, strict=True)
        return [self._evaluation(share, loss) for share, loss in pairs]

    def last(self) -> Evaluation | None:
        """Return the newest of them."""
        return next(reversed(self.evaluated()), None)

    def at(self, step: int) -> Evaluation | None:
        """Return the one after some updates, if there was one."""
        return next((e for e in self.evaluated() if e.step == step), None)

    @cache  # noqa: B019 - as many as a table has entries
    def _evaluation(self, share: float, loss: float) -> Evaluation:
        return Evaluation(round(share * LENGTH), loss, None, self.parts(share, loss))

    def parts(self, share: float, loss: float) -> tuple[float, ...]:
        """Return the losses of the slices at a share of the run."""
        if share not in evidence.PAUSES:
            return (math.nan,) * evidence.SLICES
        raw = float(self.table.losses[self.seed, self.rate, self.table.look(share)])
        place = evidence.PAUSES.index(share), self.seed, self.rate, int(loss < raw)
        return tuple(map(float, slices(self.table.task)[place]))


class Unsliced(Replayed):
    """The same of a table without slices: every slice is the loss, so there is no noise."""

    @property
    def floor(self) -> Evaluation | None:
        """What it must beat."""
        untrained = float(self.table.untrained[self.seed])
        return Evaluation(0, untrained, None, self.parts(0.0, untrained))

    def parts(self, share: float, loss: float) -> tuple[float, ...]:
        """Return the losses of the slices at a share of the run."""
        return (loss, loss)


class Replays(Field):
    """The trials of one search on a table, as an assessment reads them."""

    entries: dict[int, Replayed]  # type: ignore[assignment]
    kind: type[Replayed] = Replayed

    def enter(self, lr: float) -> Replayed:
        """Enter the grid's nearest rate, or return the entry that is there."""
        rate = self.table.nearest(lr)
        return self.entries.setdefault(rate, self.kind(self.table, self.seed, rate))

    def trials(self) -> list[Replayed]:  # type: ignore[override]
        """Return all that are in the pool."""
        return list(self.entries.values())


@dataclass(frozen=True)
class Pool:
    """What all trials of a replay share."""

    goal: Goal
    untrained_score: float
    constant: Evaluation | None
    budget: float
    tasks: Sequence[Task]
    trials: Sequence[Replayed]


@dataclass(frozen=True)
class Searched:
    """A search that was replayed on a table.

    Attributes:
        table: The table.
        search: The search, and its trials.
        best: The one that was chosen.
        trials: All of them, ascending by rate.
        pool: What an assessment reads of them.
    """

    table: Table
    search: Search[Replayed]
    best: Replayed
    trials: list[Replayed]
    pool: Pool


def searched(name: str, seed: int, budget: float) -> Searched:
    """Search on the table of a fresh task, or of one of the contest."""
    known = name in contest.NAMES
    found, begin = (table.load(name), table.start(name)) if known else (table_of(name), start(name))
    field = Replays(found, seed, budget, begin[1])
    field.kind = Unsliced if known else Replayed
    search = Search[Replayed](field, ladder_for(budget), begin[0])
    best = search.run()
    trials = sorted(field.trials(), key=lambda one: one.lr)
    constant = None if known else floor(name)
    task = contest.get(name) if known else evidence.get(name)
    pool = Pool(Goal(), field.untrained_score, constant, budget, [task], trials)
    return Searched(found, search, best, trials, pool)


def replay(name: str, seed: int, budget: float) -> tuple[Assessment, Replayed, list[Replayed]]:
    """Search on a table; return the verdict, the best, and all trials, ascending."""
    found = searched(name, seed, budget)
    return assess(found.pool, found.search, found.best), found.best, found.trials
