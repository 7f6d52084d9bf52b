"""What one rate did over the first updates of a run, and whether training broke there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from etude.measure.stall import stands_still
from etude.record import to_json

SPIKE, WORTH = 2.0, 0.1
"""A rise of the loss this many times the recipe's own largest counts as a spike, if it is at least
this share of the recipe's drop."""


@dataclass(frozen=True)
class Probe:
    """What one rate did over the first updates of the recipe's schedule.

    Attributes:
        lr: The peak of the rate.
        updates: Updates done.
        diverged: Whether the loss became NaN or Inf.
        first: The training loss before the first update.
        last: Its mean over the last tenth.
        rise: The largest rise of the loss over its lowest value before.
        rise_at: The update where that was.
        spiked: Whether the rise is twice the recipe's own, and a tenth of the recipe's drop.
        norm: 90th percentile of the gradient's norm, before clipping.
        unstable: Whether training broke.
        reason: How it broke; empty if it did not.
    """

    lr: float
    updates: int
    diverged: bool
    first: float
    last: float
    rise: float
    rise_at: int
    spiked: bool
    norm: float
    unstable: bool
    reason: str

    def plain(self) -> dict[str, Any]:
        """Return it as plain values that JSON can hold."""
        numbers = ("first", "last", "rise", "norm")
        return {**vars(self), **{name: to_json(getattr(self, name)) for name in numbers}}


def judge(
    lr: float,
    losses: Sequence[float],
    norms: Sequence[float],
    broke: str,
    own: Sequence[float] | None,
    *,
    higher: bool = True,
) -> Probe:
    """Say from a run's training losses whether it is stable.

    Args:
        lr: Its rate.
        losses: Finite, update by update.
        norms: Of the gradient.
        broke: Why it diverged; empty if it did not.
        own: The losses at the recipe's own rate; None for that run itself.
        higher: Whether the rate lies above the recipe's own.

    >>> judge(0.1, [1.0] * 10, [1.0], "", None).reason
    'the loss does not fall: 1 at first, 1 at last'
    >>> judge(0.1, [1.0 / (t + 1) for t in range(10)], [1.0], "", None).unstable
    False
    """
    first = losses[0] if len(losses) else math.nan
    last, middle = _mean(losses, 1.0), _mean(losses, 0.55)
    reason = broke
    drop = _drop(losses if own is None else own)
    if not reason and not last < first:
        reason = f"the loss does not fall: {first:.4g} at first, {last:.4g} at last"
    if not reason and own is not None and higher and drop > 0:
        kept, gained = (first - last) / drop, (middle - last) / drop
        if stands_still(kept, gained):
            reason = f"the loss stands still at {last:.4g}, with {kept:.0%} of the recipe's drop"
    rise, where = _rise(losses)
    spiked = own is not None and rise > SPIKE * _rise(own)[0] and rise > WORTH * max(0.0, drop)
    return Probe(
        lr=lr,
        updates=len(losses),
        diverged=bool(broke),
        first=first,
        last=last,
        rise=rise,
        rise_at=where,
        spiked=spiked,
        norm=float(np.percentile(norms, 90)) if len(norms) else math.nan,
        unstable=bool(reason),
        reason=reason,
    )


def _mean(losses: Sequence[float], share: float) -> float:
    """Return the mean over the tenth of the updates that ends at a share of them."""
    end = max(1, round(len(losses) * share))
    part = losses[max(0, end - max(1, len(losses) // 10)) : end]
    return float(np.mean(part)) if len(part) else math.nan


def _drop(losses: Sequence[float]) -> float:
    return losses[0] - _mean(losses, 1.0) if len(losses) else 0.0


def _rise(losses: Sequence[float]) -> tuple[float, int]:
    """Return the largest rise over the running minimum, and the update where it was."""
    if not len(losses):
        return 0.0, 0
    values = np.asarray(losses)
    rises = values - np.minimum.accumulate(values)
    where = int(rises.argmax())
    return float(rises[where]), where
