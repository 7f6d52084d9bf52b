"""The rates that a search may try: every rate, those within a range, or those of a list."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from etude.errors import BadValueError, shown
from etude.optimizers.prior import grid, nice
from etude.trials.given_rates import checked_rates

APART = 0.05
"""Decades within which two rates count as one."""

MOST = 1_000
"""The largest number of rates in a list."""

PAIR = "the lowest and the highest rate, such as (1e-4, 1e-2)"


@dataclass(frozen=True)
class AllowedRates:
    """The rates that a search may try.

    Attributes:
        low: The lowest; 0 without a bound.
        high: The highest; infinite without one.
        listed: The only rates, ascending; empty where every rate from `low` to `high` is allowed.

    >>> AllowedRates(1e-3, 0.1).nearest(2.0), AllowedRates.of(lrs=[0.1, 0.01]).nearest(0.03)
    (0.1, 0.01)
    """

    low: float = 0.0
    high: float = math.inf
    listed: tuple[float, ...] = ()

    @classmethod
    def of(cls, lr_range: object = None, lrs: object = None) -> AllowedRates:
        """Return what the arguments of `tune` allow.

        Args:
            lr_range: The lowest and the highest rate; None for no bounds.
            lrs: The only rates; None for every rate.

        Raises:
            BadTypeError: If they are no numbers.
            BadValueError: If both are given, one is out of bounds, or they leave fewer than two
                rates to compare.
        """
        if lr_range is not None and lrs is not None:
            raise BadValueError("lr_range and lrs both say which rates are tried: give one of them")
        if lr_range is not None:
            found = checked_rates(lr_range, "lr_range", PAIR)
            if len(found) != 2 or math.log10(found[1] / found[0]) <= APART:
                raise BadValueError(
                    f"lr_range={shown(lr_range)}: give {PAIR}, at least {10**APART:.2f} times as "
                    "high as the lowest; to train at one rate, use train"
                )
            return cls(found[0], found[1])
        if lrs is None:
            return EVERY_RATE
        found = checked_rates(lrs)
        if not 2 <= len(found) <= MOST:
            raise BadValueError(
                f"lrs holds {len(found):,} of them: give 2 to {MOST:,} rates; to train at one "
                "rate, use train"
            )
        return cls(found[0], found[-1], found)

    @property
    def bounded(self) -> bool:
        """Whether some rates are not allowed."""
        return self.low > 0 or self.high < math.inf

    def plain(self) -> dict[str, list[float] | None]:
        """Return the arguments that `of` takes, as values that JSON can hold."""
        ranged = self.bounded and not self.listed
        return {
            "lr_range": [self.low, self.high] if ranged else None,
            "lrs": list(self.listed) or None,
        }

    def rounded(self, rate: float) -> float:
        """Round a rate to three digits, but to none that is not allowed."""
        return rate if self.listed else min(max(nice(rate), self.low), self.high)

    def start(self, centre: float, count: int, spacing: float) -> list[float]:
        """Return the rates that a search begins with, ascending.

        Without bounds they are `count` rates `spacing` decades apart around 10**centre. Bounds
        move them to where they all fit; a range that is too narrow for them is divided evenly. Of
        a list, those nearest to these are taken.

        Args:
            centre: log10 of the rate in their middle.
            count: How many.
            spacing: Decades from one to the next.

        >>> AllowedRates(1e-3, 0.1).start(0.0, 3, 0.4)
        [0.0158, 0.0398, 0.1]
        """
        if not self.bounded:
            return grid(centre, count, spacing)
        low, high = math.log10(self.low), math.log10(self.high)
        if not self.listed:
            count = min(count, max(2, math.floor((high - low) / APART)))
        step = min(spacing, (high - low) / max(1, count - 1))
        half = step * (count - 1) / 2
        middle = max(low + half, min(centre, high - half))
        wanted = [10 ** (middle - half + step * i) for i in range(count)]
        if not self.listed:
            return [self.rounded(rate) for rate in wanted]
        left, taken = list(self.listed), []
        for rate in wanted[: len(left)]:
            taken.append(min(left, key=lambda lr: _distance(lr, rate)))
            left.remove(taken[-1])
        return sorted(taken)

    def nearest(self, rate: float, *, above: float = 0.0, below: float = math.inf) -> float | None:
        """Return the allowed rate that is nearest to one that a search asks for.

        Args:
            rate: What is asked for.
            above: A rate that is known already: the answer is higher.
            below: Another one: the answer is lower.

        Returns:
            The rate; None where none is allowed there that differs from the known ones.
        """
        if self.listed:
            inside = [lr for lr in self.listed if above < lr < below]
            return min(inside, key=lambda lr: _distance(lr, rate), default=None)
        if not self.bounded:
            return rate
        found = min(max(rate, self.low), self.high)
        return found if above < found < below and not _alike(found, (above, below)) else None

    def around(self, rate: float, shifts: Sequence[float]) -> Iterator[tuple[float, float]]:
        """Yield rates near one, and how many decades away each was asked for.

        Args:
            rate: The rate.
            shifts: Decades from it, in the order in which they are tried. Those of a list come in
                the order of their distance instead.
        """
        if self.listed:
            others = (lr for lr in self.listed if lr != rate)
            for lr in sorted(others, key=lambda lr: _distance(lr, rate)):
                yield lr, math.log10(lr / rate)
            return
        for shift in shifts:
            yield self.rounded(rate * 10**shift), shift

    def holds_between(self, low: float, high: float) -> bool:
        """Return whether a rate is allowed that lies between two, and is neither of them."""
        if self.listed:
            return any(low < lr < high for lr in self.listed)
        first, last = max(low, self.low), min(high, self.high)
        return first < last and not (self.bounded and _alike(first, (last,)))

    def within(self, low: float, high: float) -> tuple[float, float]:
        """Return the part of a range that is allowed; one of its rates must be."""
        return max(low, self.low), min(high, self.high)

    def bound_at(self, rate: float) -> float | None:
        """Return the bound at which a rate lies; None where it lies inside, or without bounds."""
        for end in (self.low, self.high):
            if rate == end or (not self.listed and _alike(rate, (end,))):
                return end
        return None


EVERY_RATE = AllowedRates()
"""No bounds."""


def _distance(one: float, other: float) -> float:
    return abs(math.log10(one / other))


def _alike(rate: float, others: Iterable[float]) -> bool:
    return any(0 < x < math.inf and _distance(rate, x) <= APART for x in others)
