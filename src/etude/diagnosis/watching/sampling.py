"""Which updates are sampled: as many as the bound on the watch's own time allows."""

from __future__ import annotations

import math
from collections import deque
from statistics import median

BOUND = 0.02
"""The share of the run's own time that the watch may take."""

FIRST = 4
"""The first updates are sampled in any case, then the powers of 2, each with the update after."""

LONGEST = 512
"""The longest period between two samples, whatever it costs."""

FREE = 1_000
"""So many updates are watched whatever it costs; what that is beyond the bound is not repaid."""

WINDOW = 20
"""So many updates are watched between two rests; shorter rests than this are not worth it."""


class Sampler:
    """Decides update by update whether it is sampled.

    With `every`, updates 0, every, 2·every ... are sampled. Without it, every update adds

        bound · (its own time without the watch)

    to an account, and what the watch needs is taken off it. A pair of updates is sampled as soon as
    the account covers it, so that over a long run

        (the watch's time) / (the run's own time) <= bound.

    The first updates and the powers of 2 are sampled on credit. An update counts with at most three
    times the median of the last 32, so that a pause for an evaluation pays for nothing.

    Where an update takes less than a millisecond, hearing its passes alone can cost more than the
    bound. After the first thousand updates the watch then rests in between: `rest` says for how
    many updates, so that the account is balanced after them.

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
        self._costs: deque[float] = deque(maxlen=32)
        self._plain, self._woke = 0.0, 0
        self.rested_updates = 0

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

    def passed(
        self, seconds: float, own: float, extra: float = 0.0, *, sampled: bool = False
    ) -> float:
        """Note the time of an update; return how much of it counts.

        Args:
            seconds: The time of the update, without the watch's own.
            own: The watch's own.
            extra: The watch's time for what was asked for beside sampling, which no account pays.
            sampled: Whether the update was sampled.
        """
        self._recent.append(seconds)
        if self._passed % 16 == 0 or self._passed < 4:
            self._usual = median(self._recent)
            self._plain = median(self._costs) if self._costs else 0.0
        self._passed += 1
        if not sampled:
            self._costs.append(own)
        self.own += own + extra
        self.run += seconds
        counted = min(seconds, 3 * self._usual)
        self.account += self.bound * counted - own
        if self._passed == FREE:
            self.account = max(self.account, 0.0)
        return counted

    def rest(self) -> int:
        """Return for how many updates the watch is to rest now; 0 where it keeps the bound.

        It never rests where a period was given, and where an update that is not sampled costs less
        than the bound.
        """
        if self.every is not None or self._passed < FREE or self._passed < self._woke + WINDOW:
            return 0
        pays = self.bound * self._usual
        if self.account >= 0 or self._plain <= pays:
            return 0
        count = math.ceil(min(-self.account / pays, LONGEST)) if pays > 0 else LONGEST
        return count if count >= WINDOW else 0

    def rested(self, updates: int, seconds: float) -> None:
        """Note updates that were not watched.

        Args:
            updates: How many.
            seconds: The time that they took.
        """
        self.rested_updates += updates
        self._woke = self._passed
        self.run += seconds
        self.account += self.bound * min(seconds, 3 * self._usual * updates)

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
