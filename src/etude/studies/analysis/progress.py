"""The evaluations of single trials, read from their Records, and the updates to a target."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from etude.errors import StorageError
from etude.record import Record
from etude.studies.analysis.intervals import Interval, mean_interval
from etude.studies.analysis.targets import target_loss, updates_to
from etude.studies.summary import RateSummary

MOST_READ = 1_000
"""The largest number of Records that are read for a report: a large study has too many."""


def records_of(numbers: Iterable[int], read: Callable[[int], Record]) -> dict[int, Record]:
    """Read the Records of trials, at most 1,000; those that were not stored are left out.

    Args:
        numbers: The numbers of the trials, the most important first.
        read: Returns a trial's Record, or raises a StorageError.
    """
    found: dict[int, Record] = {}
    for number in list(dict.fromkeys(numbers))[:MOST_READ]:
        try:
            found[number] = read(number)
        except StorageError:
            continue
    return found


@dataclass(frozen=True)
class ToTarget:
    """How many updates a kind of run takes to a loss, at its best rate.

    Attributes:
        summary: The kind.
        target: The loss, the same for all kinds of its task.
        updates: The mean over seeds, with its interval; infinite if a seed did not reach it.
        every: The largest number of updates between two evaluations: how exact the number is.
    """

    summary: RateSummary
    target: float
    updates: Interval
    every: int


def targets_of(summaries: Sequence[RateSummary]) -> dict[str, float]:
    """Return the target of each task: the loss after 90% of the largest drop in the study."""
    found: dict[str, float] = {}
    for task in dict.fromkeys(one.kind.task for one in summaries):
        own = [one for one in summaries if one.kind.task == task and one.optimum is not None]
        starts = [one.untrained for one in own if math.isfinite(one.untrained)]
        if not starts:
            continue
        best = min(one.optimum.loss for one in own if one.optimum is not None)
        start = sum(starts) / len(starts)
        if best < start:
            found[task] = target_loss(start, best)
    return found


def to_target(one: RateSummary, target: float, records: Mapping[int, Record]) -> ToTarget | None:
    """Return the updates of a kind to a loss; None if a Record of its best rate is missing."""
    runs = [records[n] for n in one.best_trials if n in records]
    if not runs or len(runs) < len(one.best_trials):
        return None
    reached, gaps = [], [0]
    for run in runs:
        steps = [e.step for e in run.evaluations]
        reached.append(updates_to(steps, [e.loss for e in run.evaluations], target))
        gaps += [b - a for a, b in pairwise(steps)]
    return ToTarget(one, target, mean_interval(reached), max(gaps))
