"""The rules that read a rate off a ramp, each as its library documents it.

fastai: https://docs.fast.ai/callback.schedule.html, `Learner.lr_find` and `SuggestionMethod`.
Lightning: `lightning.pytorch.tuner.tuning.Tuner.lr_find`. pytorch-lr-finder: `LRFinder.plot`.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from etude.methods.ramp import FASTAI, LIGHTNING, LR_FINDER, Ramp, RampPlan

WINDOW, FLAT = 15, 0.005
"""Of fastai's slide: the distance of the two slopes that are compared, and how far they may differ
where the loss does not move any more."""


@dataclass(frozen=True)
class Missed:
    """What a rule missed in `benchmarks/results/regret.md`, one full run at its rate following it.

    Attributes:
        median: Over 28 tasks and three seeds, the share of the attainable drop in loss.
        worst: The largest.
    """

    median: float
    worst: float


@dataclass(frozen=True)
class RampRule:
    """How a library reads a rate off its ramp.

    Attributes:
        name: The name that `range_test` takes.
        plan: The ramp that it is read off.
        pick: From rates and smoothed losses to the rate; None where they do not allow one.
        missed: What it missed in the benchmark; None where it was not part of that.
        skip_share: The share of the ramp's updates that is left out at its start.
        skip_end: How many of the last updates are left out.
    """

    name: str
    plan: RampPlan
    pick: Callable[[Sequence[float], Sequence[float]], float | None]
    missed: Missed | None
    skip_end: int
    skip_share: float = 0.1

    def suggest(self, ramp: Ramp, updates: int) -> float | None:
        """Return the rate that the rule suggests; None where it finds none.

        Nothing can be read off a ramp that a batch ended which has no finite loss at any rate.

        Args:
            ramp: A ramp of `plan`.
            updates: The number of updates that the ramp was planned for.
        """
        if ramp.cause:
            return None
        first = int(self.skip_share * updates)
        kept = slice(first, max(first, len(ramp.lrs) - self.skip_end))
        lrs, losses = ramp.lrs[kept], ramp.smoothed[kept]
        return self.pick(lrs, losses) if len(lrs) >= 2 else None


def valley(lrs: Sequence[float], losses: Sequence[float]) -> float:
    """Return the rate half way down the longest valley: at 1/3 + 1/6 of it.

    A valley is the longest subsequence of losses that falls; it is taken to lie on as many
    neighbours, which end where it ends.

    >>> valley([1, 2, 3, 4, 5, 6, 7], [9, 8, 7, 6, 5, 4, 9])
    3
    """
    tails: list[float] = []
    longest = end = 0
    for index, loss in enumerate(losses):
        place = bisect.bisect_left(tails, -loss)
        tails[place : place + 1] = [-loss]
        if place + 1 > longest:
            longest, end = place + 1, index
    third = longest / 3
    return lrs[max(0, end - longest + int(third) + int(third / 2))]


def slide(lrs: Sequence[float], losses: Sequence[float]) -> float | None:
    """Return the rate from which the slope no longer changes within 15 updates.

    Two points 15 updates apart slide down from the end of the ramp. They stop where the slopes of
    the loss by update differ by at most .005; the rate is that of the left point before.
    """
    if len(losses) <= WINDOW:
        return None
    slopes = np.gradient(np.asarray(losses, float))
    left = len(slopes) - 1 - WINDOW
    found = lrs[left]
    while left >= 0 and abs(slopes[left + WINDOW] - slopes[left]) > FLAT:
        found = lrs[left]
        left -= 1
    return found


def steep(lrs: Sequence[float], losses: Sequence[float]) -> float:
    """Return the rate at which the loss falls most from one update to the next, by log rate."""
    return lrs[int(np.argmin(np.diff(losses) / np.diff(np.log(lrs))))]


def minimum(lrs: Sequence[float], losses: Sequence[float]) -> float:
    """Return a tenth of the rate at which the smoothed loss is lowest."""
    return lrs[int(np.argmin(losses))] / 10


def steepest_by_rate(lrs: Sequence[float], losses: Sequence[float]) -> float:
    """Return the rate at which d loss / d rate is least, along the rate itself.

    Differences of neighbouring rates are tiny at the start of a ramp, so that noise there decides.
    """
    return lrs[int(np.argmin(np.gradient(np.asarray(losses, float), np.asarray(lrs, float))))]


def steepest_by_update(lrs: Sequence[float], losses: Sequence[float]) -> float:
    """Return the rate at which the loss falls fastest by update."""
    return lrs[int(np.argmin(np.gradient(np.asarray(losses, float))))]


RULES: Mapping[str, RampRule] = MappingProxyType(
    {
        rule.name: rule
        for rule in (
            RampRule("valley", FASTAI, valley, Missed(0.0234, 0.451), 5),
            RampRule("slide", FASTAI, slide, None, 5),
            RampRule("steep", FASTAI, steep, Missed(0.0370, 1.0), 5),
            RampRule("minimum/10", FASTAI, minimum, Missed(0.0119, 1.0), 5),
            RampRule("lightning", LIGHTNING, steepest_by_rate, Missed(0.0994, 1.0), 1),
            RampRule("lr-finder", LR_FINDER, steepest_by_update, Missed(0.0451, 1.0), 5),
        )
    }
)
"""The rules by name."""

TUNER = Missed(0.0062, 0.351)
"""What `tune` missed in the same benchmark with a budget of 1.3 runs, about the price of a ramp and
a full run."""
