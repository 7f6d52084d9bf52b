"""Warns of a divergence before it happens: the loss rises out of its own earlier range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from etude.diagnosis.finding import Finding, Symptom
from etude.diagnosis.history import History
from etude.diagnosis.symptoms.losses import diverging

BLOCK = 5
"""Losses whose median is one level."""

FIRST = 5
"""The start of a run is the median of so many first losses."""

NEAR, FAR = 8, 20
"""Earlier levels of which the usual level, and the noise, are taken."""

DEVIATIONS = 4.0
"""How many standard deviations a level must stand out by."""

MUCH, SOME, TIMES = 0.1, 0.05, 2.5
"""A rise counts if it loses a tenth of what was learned; or a twentieth, at 2.5 times the lowest
level."""


@dataclass(frozen=True)
class LossRise:
    """A rise of the loss that warns of a divergence.

    Attributes:
        update: The update at which it was seen.
        level: The lower of the last two levels.
        usual: The median of the eight levels before.
        lowest: The lowest level of the run until then.
        deviations: (level - usual) / noise.
    """

    update: int
    level: float
    usual: float
    lowest: float
    deviations: float


class LossLevels:
    """Follows the losses of a run, in blocks of five, until they rise as before a divergence.

    With the level L_i, the median of the i-th five losses, a warning is given where the lower of
    the last two levels, l,

    - is above the median of the 8 levels before by 4 noises, and above each of them;
    - is above the lowest level by a tenth of what was learned (start - lowest, or half of the
      start if that is more); or by a twentieth, where l is 2.5 times the lowest level.

    The noise is 1.4826/√2 · median |L_j - L_(j-1)| over the 20 levels before, and at least half of
    their root mean square /√2, so that a few outliers do not count as a rise. It needs at least 30
    losses. All bounds are relative to the run: a unit or an offset of the loss changes nothing but
    the two shares of the start.
    Source: ours; the figures are in benchmarks/results/divergence.md.

    Attributes:
        rise: What was found; None until then. The first is the only one.

    >>> levels = LossLevels()
    >>> falling = [1.0 / (1 + t / 10) for t in range(100)]
    >>> levels.follow(falling)
    >>> levels.rise is None
    True
    >>> levels.follow(falling + [0.1 * 1.1**t for t in range(20)])
    >>> levels.rise.update
    114
    """

    def __init__(self) -> None:
        self.rise: LossRise | None = None
        self._levels: list[float] = []
        self._lowest = math.inf
        self._start = math.nan
        self._read = 0

    def follow(self, losses: Sequence[float]) -> None:
        """Read what is new.

        Args:
            losses: All losses of the run so far; those that were read before are not read again.
        """
        while self.rise is None and len(losses) >= self._read + BLOCK:
            block = [
                loss for loss in losses[self._read : self._read + BLOCK] if math.isfinite(loss)
            ]
            self._read += BLOCK
            if self._read == FIRST:
                first = [loss for loss in losses[:FIRST] if math.isfinite(loss)]
                self._start = median(first) if first else math.nan
            if len(block) > BLOCK // 2:
                self._add(median(block))

    def _add(self, level: float) -> None:
        levels = self._levels
        levels.append(level)
        if len(levels) >= 6:
            self.rise = self._judge(min(levels[-2:]), levels[-FAR - 2 : -2])
            del levels[: -FAR - 2]
        if len(levels) >= 2:  # the last two are judged against the lowest level before them
            self._lowest = min(self._lowest, levels[-2])

    def _judge(self, level: float, before: Sequence[float]) -> LossRise | None:
        near = before[-NEAR:]
        rise = level - self._lowest
        learned = max(abs(self._start - self._lowest), abs(self._start) / 2)
        # Ordered by cost: most levels end here.
        if not rise > SOME * learned or level <= max(near):
            return None
        if not (rise > MUCH * learned or level > TIMES * self._lowest > 0):
            return None
        steps = [abs(b - a) for a, b in pairwise(before)]
        robust = 1.4826 * median(steps)
        square = math.sqrt(math.fsum(step * step for step in steps) / len(steps))
        noise = max(robust, square / 2) / math.sqrt(2)
        usual = median(near)
        if not level - usual > DEVIATIONS * noise:
            return None
        deviations = (level - usual) / noise if noise > 0 else math.inf
        return LossRise(self._read - 1, level, usual, self._lowest, deviations)


def coming_divergence(history: History) -> list[Finding]:
    """Find a rise of the loss as it comes before a divergence; see `LossLevels`.

    Silent where the loss has diverged: that is another finding. A rise can come back, as after a
    spike of many updates: a warning says what is likely, not what will be.
    """
    if not history.one_loss or diverging(history):
        return []
    levels = LossLevels()
    levels.follow(history.loss.tolist())
    return [] if levels.rise is None else [warning(levels.rise)]


def warning(rise: LossRise) -> Finding:
    """Return a rise as a finding."""
    return Finding(
        Symptom.DIVERGING,
        f"The loss rises as it does before it diverges: its median over five updates is "
        f"{rise.level:.4g}, where it was {rise.usual:.4g} before and {rise.lowest:.4g} at its "
        "lowest.",
        step=rise.update,
        evidence={
            "warning": 1.0,
            "level": rise.level,
            "usual": rise.usual,
            "lowest": rise.lowest,
            "deviations": rise.deviations,
        },
        fix="If it goes on, lower the rate or clip the gradient.",
    )
