"""Puts together the kinds of run that differ in one part alone: rivals, sizes, contrasts."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from etude.studies.analysis.drift import Drift, drift, unknown_drift
from etude.studies.analysis.intervals import Interval
from etude.studies.analysis.ranking import RivalRanking, ranking
from etude.studies.analysis.rate_sensitivity import sensitivity_difference
from etude.studies.rows import PARTS, RunKind
from etude.studies.summary import RateSummary

BATCH = "batch size"
"""The name of the batch size among sizes."""


def rest(kind: RunKind, *parts: str) -> tuple[Hashable, ...]:
    """Return a kind without some of its parts; an option of the task is named 'model.NAME'."""
    settings = tuple((k, v) for k, v in kind.settings if f"model.{k}" not in parts)
    return (
        *(("settings", settings) if part == "options" else getattr(kind, part)
          for part in PARTS if part not in parts),
    )  # fmt: skip


# ---- rivals ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RankedPart:
    """The optimizers, or the schedules, of runs that are alike otherwise, each at its best.

    Attributes:
        part: 'optimizer' or 'schedule'.
        best: For each rival its best kind of run. An optimizer stands at its best schedule.
        ranking: Their ranks at the end and at half way.
    """

    part: str
    best: dict[str, RateSummary]
    ranking: RivalRanking

    @property
    def trials(self) -> tuple[int, ...]:
        """The numbers of the trials that are compared."""
        return tuple(sorted(n for one in self.best.values() for n in one.best_trials))


def rankings(summaries: Sequence[RateSummary], part: str) -> list[RankedPart]:
    """Rank the optimizers, or the schedules, wherever there are two or more.

    Each rival stands at the rate with its least mean final loss. Its loss at half way is that of
    the same runs.

    Args:
        summaries: The kinds of run.
        part: 'optimizer' or 'schedule'.
    """
    free = ("optimizer", "schedule") if part == "optimizer" else ("schedule",)
    groups: dict[Hashable, dict[str, RateSummary]] = defaultdict(dict)
    for one in summaries:
        if one.optimum is None:
            continue
        rivals, name = groups[rest(one.kind, *free)], getattr(one.kind, part)
        if name not in rivals or one.optimum.loss < _loss(rivals[name]):
            rivals[name] = one
    found = []
    for rivals in groups.values():
        if len(rivals) > 1:
            ends = {name: one.table[_at(one)] for name, one in rivals.items()}
            halves = {name: one.halves[_at(one)] for name, one in rivals.items()}
            found.append(RankedPart(part, rivals, ranking(ends, halves)))
    return found


def _at(one: RateSummary) -> int:
    assert one.best_at is not None
    return one.best_at


def _loss(one: RateSummary) -> float:
    return math.inf if one.optimum is None else one.optimum.loss


# ---- sizes -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SizeDrift:
    """How the best rate of runs that are alike otherwise moves with a size.

    Attributes:
        size: The name of the option, such as 'width', or 'batch size'.
        sizes: Its values, ascending.
        summaries: The kind of run at each.
        drift: The slope.
    """

    size: str
    sizes: tuple[float, ...]
    summaries: tuple[RateSummary, ...]
    drift: Drift

    @property
    def trials(self) -> tuple[int, ...]:
        """The numbers of the trials at the best rates."""
        return tuple(sorted(n for one in self.summaries for n in one.best_trials))


def drifts(summaries: Sequence[RateSummary]) -> list[SizeDrift]:
    """Return how the best rate moves with the batch size and with each option that is a number.

    Runs of different lengths are not compared: kinds must be alike in all but the size.
    """
    groups: dict[tuple[str, Hashable], dict[float, RateSummary]] = defaultdict(dict)
    for one in summaries:
        for size, value in _sizes(one.kind).items():
            part = "batch_size" if size == BATCH else f"model.{size}"
            groups[size, rest(one.kind, part)].setdefault(value, one)
    found = []
    for (size, _), of in groups.items():
        if len(of) > 1:
            sizes = tuple(sorted(of))
            kinds = tuple(of[value] for value in sizes)
            found.append(SizeDrift(size, sizes, kinds, _drift(sizes, kinds)))
    return found


def _drift(sizes: Sequence[float], kinds: Sequence[RateSummary]) -> Drift:
    if any(one.stopped for one in kinds):
        return unknown_drift("successive halving stopped other rates early")
    kept = [(size, one) for size, one in zip(sizes, kinds, strict=True) if one.lrs]
    return drift(
        [size for size, _ in kept],
        [one.lrs for _, one in kept],
        [one.table for _, one in kept],
    )


def _sizes(kind: RunKind) -> dict[str, float]:
    """Return the parts of a kind that are whole numbers above 0."""
    found: dict[str, Any] = dict(kind.settings)
    found[BATCH] = kind.batch_size
    return {
        name: float(value)
        for name, value in found.items()
        if isinstance(value, int) and not isinstance(value, bool) and value > 0
    }


# ---- contrasts ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contrast:
    """Two kinds of run that differ in one part alone, at the same rates and seeds.

    Attributes:
        part: The part: 'schedule', 'clip_norm' or 'model.NAME'.
        first: The kind that comes first in the plan.
        second: The other.
        sensitivity: By how much the second is more sensitive to the rate; None if it is not known.
    """

    part: str
    first: RateSummary
    second: RateSummary
    sensitivity: Interval | None

    @property
    def trials(self) -> tuple[int, ...]:
        """The numbers of the trials of both."""
        return tuple(sorted((*self.first.trials, *self.second.trials)))

    @property
    def sure(self) -> bool:
        """Whether the interval of the difference excludes 0."""
        return (
            self.sensitivity is not None
            and self.sensitivity.known
            and not self.sensitivity.low <= 0 <= self.sensitivity.high
        )


def contrasts(summaries: Sequence[RateSummary]) -> list[Contrast]:
    """Compare each value of a part with the one that comes first in the plan, all else equal.

    The parts are the schedule, the clipping, and each option of the task. Optimizers are left out:
    the same rates mean something else to each. So are pairs that were not run at the same rates.
    """
    parts = ["schedule", "clip_norm", *sorted({
        f"model.{name}" for one in summaries for name, _ in one.kind.settings
    })]  # fmt: skip
    found = []
    for part in parts:
        groups: dict[Hashable, list[RateSummary]] = defaultdict(list)
        for one in summaries:
            groups[rest(one.kind, part)].append(one)
        for first, *others in groups.values():
            found += [
                Contrast(part, first, other, _difference(first, other))
                for other in others
                if (first.lrs, first.seeds) == (other.lrs, other.seeds)
                and not first.stopped + other.stopped
            ]
    return found


def value_of(kind: RunKind, part: str) -> Any:
    """Return the value of a part of a kind; None where an option is not given.

    >>> value_of(RunKind("a", (("depth", 2),), "sgd", "cosine()", 64, None, 10), "model.depth")
    2
    """
    if part.startswith("model."):
        return dict(kind.settings).get(part.removeprefix("model."))
    return getattr(kind, part)


def _difference(first: RateSummary, second: RateSummary) -> Interval | None:
    if first.sensitivity_interval is None or second.sensitivity_interval is None:
        return None
    return sensitivity_difference((first.table, first.untrained), (second.table, second.untrained))
