"""One summary for each kind of run: how its loss depends on the rate."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from etude.storage.study import TrialState
from etude.studies.analysis.intervals import Interval, mean_interval
from etude.studies.analysis.rate_sensitivity import sensitivity_interval
from etude.studies.analysis.stable import StableRange, StudyEdge, stable_range, study_edge
from etude.studies.measures import Optimum, optimum
from etude.studies.rows import RunKind, StudyRow


@dataclass(frozen=True)
class RateSummary:
    """How one kind of run depends on its rate.

    Tables are (rates, seeds) and hold the rates at which every seed is done.

    Attributes:
        kind: What the runs are.
        lrs: These rates, in order.
        seeds: The seeds, in order.
        table: The final losses; infinite where a run diverged.
        halves: The losses at half way; NaN where one is not known.
        metrics: The final metrics; NaN where there is none.
        numbers: The numbers of the trials.
        untrained: The mean loss before training; NaN if it is not known.
        optimum: The best rate with its interval over seeds; None if none trained.
        sensitivity_interval: See `measures.sensitivity`, of the mean losses, with its interval over
            seeds; None if it is not known.
        stable: The range of rates whose mean loss ends below the untrained one; None if there is
            none, or the untrained loss is not known.
        limit: The rate above which the curvature before training makes a step unstable; None if it
            is not known.
        measured: The number of the trial for which the curvature was measured.
        diverged: The share of the runs that diverged.
        runs: How many runs are done.
        failed: How many failed with an error.
        tried: All rates at which a run is done or was stopped, in order.
        stopped: How many were stopped by successive halving. Their rates are not among `lrs`, and
            what needs all rates, the sensitivity and the stable range, is not known.
    """

    kind: RunKind
    lrs: tuple[float, ...]
    seeds: tuple[int, ...]
    table: tuple[tuple[float, ...], ...]
    halves: tuple[tuple[float, ...], ...]
    metrics: tuple[tuple[float, ...], ...]
    numbers: tuple[tuple[int, ...], ...]
    untrained: float
    optimum: Optimum | None
    sensitivity_interval: Interval | None
    stable: StableRange | None
    limit: float | None
    measured: int | None
    diverged: float
    runs: int
    failed: int
    tried: tuple[float, ...] = ()
    stopped: int = 0

    @property
    def losses(self) -> tuple[float, ...]:
        """The mean final loss at each rate; infinite where a run diverged."""
        return tuple(sum(row) / len(row) for row in self.table)

    @property
    def trials(self) -> tuple[int, ...]:
        """The numbers of all trials of the tables, in order."""
        return tuple(sorted(number for row in self.numbers for number in row))

    @property
    def best_at(self) -> int | None:
        """The index of the best rate; None if no rate trained."""
        return None if self.optimum is None else self.lrs.index(self.optimum.lr)

    @property
    def best_loss(self) -> Interval | None:
        """The final loss at the best rate; None if no rate trained."""
        return None if self.best_at is None else mean_interval(self.table[self.best_at])

    @property
    def best_metric(self) -> Interval | None:
        """The final metric at the best rate; None if there is none."""
        values = () if self.best_at is None else self.metrics[self.best_at]
        return mean_interval(values) if values and all(map(math.isfinite, values)) else None

    @property
    def best_trials(self) -> tuple[int, ...]:
        """The numbers of the trials at the best rate, in the order of the seeds."""
        return () if self.best_at is None else self.numbers[self.best_at]

    @property
    def at_edge(self) -> bool:
        """Whether the best of several rates is the lowest or highest: a better one may lie out."""
        ends = self.tried[:1] + self.tried[-1:]
        return self.optimum is not None and len(self.tried) > 1 and self.optimum.lr in ends

    @property
    def sensitivity(self) -> float:
        """The sensitivity; NaN if it is not known."""
        found = self.sensitivity_interval
        return math.nan if found is None else found.value

    @property
    def stable_decades(self) -> float:
        """The width of the stable range; NaN if no rate trains, or it is not known."""
        return math.nan if self.stable is None else self.stable.decades

    @property
    def edge(self) -> StudyEdge | None:
        """Where training breaks, against the curvature; None if one of them is not known."""
        return study_edge(self.stable, self.limit)


def family(kind: RunKind) -> tuple[object, ...]:
    """Return the parts of a kind on which the curvature before training depends."""
    return kind.task, kind.settings, kind.optimizer, kind.batch_size


def limits_of(rows: Sequence[StudyRow]) -> dict[tuple[object, ...], StudyRow]:
    """Return the row at which the curvature of each family was measured."""
    found: dict[tuple[object, ...], StudyRow] = {}
    for row in rows:
        if row.limit is not None:
            found.setdefault(family(row.kind), row)
    return found


def summary_of(
    kind: RunKind, rows: Sequence[StudyRow], measured: StudyRow | None = None
) -> RateSummary:
    """Return the summary of the trials of one kind.

    Args:
        kind: The kind.
        rows: Its trials.
        measured: The trial at which the curvature was measured, which may be of a kind with
            another schedule; None if there is none.
    """
    done = [row for row in rows if row.state == TrialState.DONE]
    seeds = tuple(sorted({row.seed for row in rows}))
    found: dict[float, dict[int, StudyRow]] = defaultdict(dict)
    for row in done:
        if row.stopped_at is None:
            found[row.lr][row.seed] = row
    stopped = sum(row.stopped_at is not None for row in done)
    lrs = tuple(sorted(lr for lr, of in found.items() if len(of) == len(seeds)))
    cells = [[found[lr][seed] for seed in seeds] for lr in lrs]
    table = tuple(tuple(_final(row) for row in line) for line in cells)
    untrained = [row.untrained_loss for row in done if row.untrained_loss is not None]
    start = float(np.mean(untrained)) if untrained else math.nan
    means = [sum(line) / len(line) for line in table]
    return RateSummary(
        kind,
        lrs,
        seeds,
        table,
        tuple(tuple(_half(row) for row in line) for line in cells),
        tuple(tuple(_or_nan(row.metric) for row in line) for line in cells),
        tuple(tuple(row.number for row in line) for line in cells),
        start,
        optimum(lrs, table) if lrs else None,
        None if stopped else sensitivity_interval(table, start),
        stable_range(lrs, means, start) if lrs and math.isfinite(start) and not stopped else None,
        None if measured is None else measured.limit,
        None if measured is None else measured.number,
        sum(bool(row.diverged) for row in done) / len(done) if done else math.nan,
        len(done),
        sum(row.state == TrialState.FAILED for row in rows),
        tuple(sorted({row.lr for row in done})),
        stopped,
    )


def _final(row: StudyRow) -> float:
    return math.inf if row.diverged or row.loss is None else row.loss


def _half(row: StudyRow) -> float:
    """Return the loss at half way; infinite if the run had diverged before it was evaluated."""
    if row.half_loss is None:
        return math.nan
    return row.half_loss


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
