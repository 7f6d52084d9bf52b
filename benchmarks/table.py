"""The oracle's data as a pool: searches and samplers run on it without training anything.

A `Table` is what `benchmarks.oracle` kept of a task: 25 rates × 3 seeds, with the losses on the
way. `Field` answers what `Search` asks of its trials from it, with every rate moved to the
nearest of the grid; `Table.between` answers for any rate, by straight lines in
the logarithm of the rate.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import contest
from etude.optimizers.prior import centre_of
from etude.recipe import Recipe
from etude.training.clock import clock_of
from etude.trials.baseline import LEAST
from etude.trials.curve import Curve, Exposure
from etude.trials.guess import Guess
from etude.trials.phase import Phase
from etude.tuning.search.ladder import ladder_for
from etude.tuning.search.search import Search

DATA = Path(__file__).parent / "results" / "oracle"
LOOKS = tuple(i / 16 for i in range(1, 17))
"""Where a trial of the table is looked at."""


@dataclass(frozen=True, eq=False)
class Table:
    """A task at every rate of its grid, with every seed.

    Attributes:
        task: Its name in the contest.
        rates: Ascending.
        shares: Where the losses were taken, in shares of the run.
        untrained: Validation loss before training, by seed.
        losses: Validation loss, by (seed, rate, share); infinite where it was not reached.
        means: The same of the mean of the weights since the share before.
        cooled: The same after a short cooldown, by (seed, rate, branch).
        training: Mean training loss since the share before.
        ends: The share of its run after which each diverged, else 1, by (seed, rate).
        averaged: Validation loss of an exponential mean of the weights, where the tuner evaluates
            one; infinite elsewhere. None where it was not kept.
        constant: Validation loss of the best constant output; None where it was not kept, or
            there is none.
    """

    task: str
    rates: tuple[float, ...]
    shares: tuple[float, ...]
    untrained: np.ndarray
    losses: np.ndarray
    means: np.ndarray
    cooled: np.ndarray
    training: np.ndarray
    ends: np.ndarray
    averaged: np.ndarray | None = None
    constant: float | None = None

    @classmethod
    def of(cls, content: dict[str, Any]) -> Table:
        """Read what the oracle wrote of one task."""
        runs = content["runs"]
        rates = sorted({run["lr"] for run in runs})
        seeds = len({run["seed"] for run in runs})
        shape = (seeds, len(rates), len(content["shares"]))
        kept = {name: np.full(shape, np.inf) for name in ("loss", "mean", "train")}
        cooled = np.full((*shape[:2], 4), np.inf)
        untrained, ends = np.zeros(seeds), np.ones(shape[:2])
        for run in runs:
            place = run["seed"], rates.index(run["lr"])
            for name, values in kept.items():
                values[place][: len(run[name])] = _numbers(run[name])
            cooled[place][: len(run["cooled"])] = _numbers(run["cooled"])
            untrained[run["seed"]] = run["untrained"]
            ends[place] = run["steps"] / run["length"]
        return cls(
            content["task"],
            tuple(rates),
            tuple(content["shares"]),
            untrained,
            kept["loss"],
            kept["mean"],
            cooled,
            kept["train"],
            ends,
        )

    @property
    def final(self) -> np.ndarray:
        """Validation loss at the end, by (seed, rate)."""
        return np.asarray(self.losses[:, :, -1])

    @cached_property
    def judged(self) -> np.ndarray:
        """What a trial is judged by: the less of the losses of its weights and of their mean."""
        return self.losses if self.averaged is None else np.minimum(self.losses, self.averaged)

    def told(self, losses: Sequence[float]) -> tuple[bool, ...]:
        """Say of each loss whether it is better than a constant's; empty where none is known.

        The tuner also asks for three standard errors over slices, which the table does not hold.
        """
        if self.constant is None:
            return ()
        least = self.constant - LEAST * abs(self.constant)
        return tuple(loss < least for loss in losses)

    @cached_property
    def best(self) -> int:
        """The rate whose loss at the end is lowest in the mean over the seeds."""
        return int(self.final.mean(axis=0).argmin())

    def regret(self, loss: float | None) -> float:
        """Return the share of the attainable drop that a choice with this final loss missed.

            (L − L*) / (L₀ − L*), at most 1

        with L* the mean over the seeds at the best rate, L₀ the mean untrained loss. A run that
        diverged, or is missing, missed everything. Below 0 where one seed's luck beats the mean.
        """
        if loss is None or not math.isfinite(loss):
            return 1.0
        best = float(self.final[:, self.best].mean())
        return min(1.0, (loss - best) / (float(self.untrained.mean()) - best))

    def look(self, share: float) -> int:
        """Return the place of a share among those that were kept."""
        return min(range(len(self.shares)), key=lambda j: abs(self.shares[j] - share))

    def nearest(self, lr: float) -> int:
        """Return the grid's rate that is nearest."""
        return min(range(len(self.rates)), key=lambda i: abs(math.log10(self.rates[i] / lr)))

    def between(self, seed: int, lr: float, share: float = 1.0) -> float:
        """Return the validation loss at any rate, between its neighbours in the grid.

        Infinite where one of them had diverged; beyond the grid's ends, what stands there.
        """
        low, part = self._place(lr)
        pair = self.losses[seed, low : low + 2, self.look(share)]
        if part in (0.0, 1.0):
            return float(pair[int(part)])
        return float(pair[0] + part * (pair[1] - pair[0])) if np.isfinite(pair).all() else math.inf

    def end(self, seed: int, lr: float) -> float:
        """Return the share of the run after which a rate diverged, else 1."""
        low, part = self._place(lr)
        pair = self.ends[seed, low : low + 2]
        return float(pair[0] + part * (pair[1] - pair[0]))

    def _place(self, lr: float) -> tuple[int, float]:
        logs = np.log10(self.rates)
        place = float(np.interp(math.log10(lr), logs, np.arange(len(logs))))
        place = round(place) if abs(place - round(place)) < 1e-6 else place
        low = min(int(place), len(logs) - 2)
        return low, place - low

    def train_loss(self, seed: int, rate: int, look: int) -> float:
        """Return the mean training loss over the sixteenth of the run before a look."""
        edges = (0.0, *self.shares)
        since = self.shares[look] - 1 / 16 - 1e-9
        parts = [j for j in range(look + 1) if edges[j] >= since]
        widths = [self.shares[j] - edges[j] for j in parts]
        return float(np.average(self.training[seed, rate, parts], weights=widths))


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [math.inf if v is None or not math.isfinite(v) else v for v in values]


@cache
def load(task: str) -> Table:
    """Return the table of a task of the contest."""
    return Table.of(json.loads((DATA / f"{task}.json").read_text()))


def known() -> list[str]:
    """Return the tasks whose tables are there, in the contest's order."""
    return [name for name in contest.NAMES if (DATA / f"{name}.json").exists()]


@cache
def start(task: str) -> tuple[float, Exposure]:
    """Return what a search begins with: log10 of the rate to begin around, and the exposure."""
    one = contest.get(task)
    recipe = Recipe(**one.defaults)
    centre = centre_of(one.build(), one.train.targets(), recipe.optimizer)
    return centre, Exposure.of(recipe.schedule, clock_of(one, recipe).horizon)


class Entry:
    """One rate of the table, as far as it was asked to go."""

    def __init__(self, table: Table, seed: int, rate: int) -> None:
        self.table, self.seed, self.rate = table, seed, rate
        self.lr = table.rates[rate]
        self.end = float(table.ends[seed, rate])
        self.share = 0.0

    @property
    def diverged(self) -> bool:
        """Whether a NaN or Inf had ended it by then."""
        at = self.table.look(self.share)
        broken = not math.isfinite(self.table.losses[self.seed, self.rate, at])
        return (self.end < 1 and self.end <= self.share) or (self.share > 0 and broken)

    def curve(self) -> Curve:
        """Return its looks so far."""
        places = [self.table.look(share) for share in LOOKS if share <= self.share + 1e-9]
        losses = self.table.judged[self.seed, self.rate]
        seen = [j for j in places if math.isfinite(losses[j])]
        return Curve(
            self.lr,
            tuple(self.table.shares[j] for j in seen),
            tuple(float(losses[j]) for j in seen),
            tuple(self.table.train_loss(self.seed, self.rate, j) for j in seen),
            self.table.told([float(losses[j]) for j in seen]),
        )

    def price(self, share: float) -> float:
        """Return the cost, in full runs, of taking it to a share of its run."""
        return max(0.0, min(share, self.end) - min(self.share, self.end))


class Field:
    """The trials of one search on a table, and what they have cost.

    Args:
        table: Of the task.
        seed: The recipe's.
        budget: What may be spent, in full runs.
        exposure: Of the recipe's schedule.
    """

    def __init__(self, table: Table, seed: int, budget: float, exposure: Exposure) -> None:
        self.table, self.seed, self.left, self.exposure = table, seed, budget, exposure
        self.untrained_score = float(table.untrained[seed])
        self.untrained_loss = abs(self.untrained_score)
        self.lowest, self.hopeless = 1e-15, False
        self.entries: dict[int, Entry] = {}
        self.costs: list[tuple[str, float, float]] = []

    def enter(self, lr: float) -> Entry:
        """Enter the grid's nearest rate, or return the entry that is there."""
        rate = self.table.nearest(lr)
        return self.entries.setdefault(rate, Entry(self.table, self.seed, rate))

    def trials(self) -> list[Entry]:
        """Return all that are in the pool."""
        return list(self.entries.values())

    def go(
        self,
        trials: Sequence[Entry],
        share: float,
        phase: Phase,
        ahead: Sequence[Entry] = (),
        guess: Guess[Any, float] | None = None,
    ) -> None:
        """Take some to a share of their runs, and pay for it; nothing is trained ahead."""
        for one in trials:
            cost = one.price(share)
            self.left -= cost
            self.costs.append((phase.at(share), one.lr, cost))
            one.share = max(one.share, share)

    def price(self, trial: Entry, share: float) -> float:
        """Return the cost of taking one to a share of its run.

        Where it will diverge is not known before: an entry is charged as if it went the way.
        """
        return 0.0 if trial.diverged else max(0.0, share - trial.share)

    def fresh(self, share: float) -> float:
        """Return the cost of taking a new one to a share of its run."""
        return share


@dataclass(frozen=True)
class Replay:
    """What a search on a table chose.

    Attributes:
        lr: The rate.
        loss: Its validation loss at the end; infinite if it did not get there.
        cost: In full runs.
        pool: All that was tried.
    """

    lr: float
    loss: float
    cost: float
    pool: Field


def replay(table: Table, seed: int, budget: float, begin: tuple[float, Exposure]) -> Replay:
    """Run Etude's own search on a table.

    Args:
        table: Of the task.
        seed: The recipe's.
        budget: In full runs.
        begin: See `start`.
    """
    centre, exposure = begin
    pool = Field(table, seed, budget, exposure)
    best = Search(pool, ladder_for(budget), centre).run()
    done = best.share >= 1 and not best.diverged
    loss = best.table.between(seed, best.lr) if done else math.inf
    return Replay(best.lr, loss, budget - pool.left, pool)
