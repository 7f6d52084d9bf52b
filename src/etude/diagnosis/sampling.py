"""Which updates are sampled: as many as the bound on the watch's own time allows."""

from __future__ import annotations

from collections import deque
from statistics import median

BOUND = 0.02
"""The share of the run's own time that the watch may take."""

FIRST = 4
"""The first updates are sampled in any case, then the powers of 2, each with the update after."""

LONGEST = 512
"""The longest period between two samples, whatever it costs."""


class Sampler:
    """Decides update by update whether it is sampled.

    With `every`, updates 0, every, 2·every ... are sampled. Without it, every update adds

        bound · (its own time without the watch)

    to an account, and what the watch needs is taken off it. A pair of updates is sampled as soon as
    the account covers it, so that over a long run

        (the watch's time) / (the run's own time) <= bound.

    The first updates and the powers of 2 are sampled on credit. An update counts with at most three
    times the median of the last 32, so that a pause for an evaluation pays for nothing.

    Args:
        every: The period; None for an automatic one.
        bound: The share of the run's own time that the watch may take.

    >>> [t for t in range(9) if Sampler(every=4).due(t)]
    [0, 4, 8]
    """

    def __init__(self, every: int | None = None, bound: float = BOUND) -> None:
        self.every, self.bound = every, bound
        self.account = 0.0
        self.own = self.run = 0.0
        self._cost = 0.0
        self._last: list[int] = []
        self._recent: deque[float] = deque(maxlen=32)
        self._usual, self._passed = 0.0, 0

    def due(self, update: int) -> bool:
        """Return whether an update is to be sampled."""
        if self.every is not None:
            return update % self.every == 0
        last = self._last[-1] if self._last else -1
        if update == last:
            return True
        if update < FIRST or update & (update - 1) == 0 or update - last >= LONGEST:
            return True
        pair = len(self._last) < 2 or self._last[-2] != last - 1
        if update == last + 1 and pair:
            return True
        return self.account >= 2 * self._cost

    def sampled(self, update: int, seconds: float) -> None:
        """Note that an update was sampled and what it cost.

        Args:
            update: The update.
            seconds: The watch's time in it.
        """
        if not self._last or self._last[-1] != update:
            self._last = [*self._last[-31:], update]
        known = self._cost if self._cost else seconds
        self._cost = 0.7 * known + 0.3 * seconds

    def passed(self, seconds: float, own: float, extra: float = 0.0) -> float:
        """Note the time of an update; return how much of it counts.

        Args:
            seconds: The time of the update, without the watch's own.
            own: The watch's own.
            extra: The watch's time for what was asked for beside sampling, which no account pays.
        """
        self._recent.append(seconds)
        if self._passed % 16 == 0 or self._passed < 4:
            self._usual = median(self._recent)
        self._passed += 1
        self.own += own + extra
        self.run += seconds
        counted = min(seconds, 3 * self._usual)
        self.account += self.bound * counted - own
        return counted

    @property
    def overhead(self) -> float:
        """The watch's time over the run's own; NaN before the first update."""
        return self.own / self.run if self.run else float("nan")

    @property
    def period(self) -> int:
        """The mean distance of the last sampled updates."""
        if self.every is not None:
            return self.every
        if len(self._last) < 2:
            return 1
        return max(1, round((self._last[-1] - self._last[0]) / (len(self._last) - 1)))
