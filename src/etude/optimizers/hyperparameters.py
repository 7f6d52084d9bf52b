"""The types of hyperparameters: number, whole number, flag, pair, selectors, and any other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from etude.errors import BadTypeError, BadValueError, as_whole, check_real, shown
from etude.schedules import Schedule

CHECKED = 1000
"""Number of updates, evenly spaced over a run, at which any function of the update is checked."""

WHOLE = 1_000_000
"""Number of updates up to which a schedule is checked at every update."""


def strided(steps: int) -> list[int]:
    """Return the updates of a run at which a function is checked: first, last, and between.

    >>> strided(3), len(strided(10**9)) < 2 * CHECKED
    ([0, 1, 2], True)
    """
    return sorted({*range(0, steps, max(1, steps // CHECKED)), max(0, steps - 1)})


def checked_steps(schedule: Schedule, steps: int, limits: tuple[float, float]) -> list[int]:
    """Return the updates of a run at which a schedule's value is to be checked.

    Of runs of up to a million updates, these are all updates at which an array of the values shows
    one out of bounds, and those of `strided`. Of longer runs, and of a registered function that
    takes no arrays, they are those of `strided` alone.

    Args:
        schedule: The schedule, bound to the run.
        steps: Length of the run.
        limits: The bounds: low <= value < high.

    >>> from etude.schedules import piecewise_constant
    >>> spike = piecewise_constant((2_501, 2_502), (0.9, 1.2, 0.9))
    >>> 2_501 in checked_steps(spike, 9_000, (0, 1)), 2_501 in strided(9_000)
    (True, False)
    """
    marks = strided(steps)
    scalar = any(getattr(node, "name", "") == "function" for node in schedule.walk())
    if len(marks) >= steps or steps > WHOLE or scalar:
        return marks
    import numpy as np

    values = schedule(np.arange(steps))
    outside = np.flatnonzero(~((values >= limits[0]) & (values < limits[1])))
    return sorted({*marks, *outside[:CHECKED].tolist()})


@dataclass(frozen=True)
class Number:
    """A number in [low, high); in [low, high] if `closed`; greater than `low` if `above`.

    `once` means that the optimizer reads it only on construction, so later changes have no effect.
    """

    default: float
    low: float = 0.0
    high: float = math.inf
    closed: bool = False
    above: bool = False
    once: bool = False

    def check(self, name: str, value: object) -> float:
        """Return `value` as a float inside the bounds, or raise."""
        number = check_real(name, value, f"one {self.bounds}")
        enough = self.low < number if self.above else self.low <= number
        inside = enough and (number <= self.high if self.closed else number < self.high)
        if not inside or not math.isfinite(number):
            raise BadValueError(
                f"{name}={shown(value)} is out of bounds: give a number {self.bounds}"
            )
        return number + 0.0  # turns -0.0 into 0.0: equal choices have equal texts

    def check_run(self, name: str, schedule: Schedule, steps: int) -> None:
        """Raise if a schedule's values over a run are out of bounds.

        Runs of up to a million updates are checked at every update, longer ones at about 1,000
        evenly spaced updates and at the last; see `checked_steps`.

        Args:
            name: The name of the value, for the message.
            schedule: The schedule, bound to the run.
            steps: Length of the run.

        Raises:
            BadValueError: The message gives the first such update, its value and the bounds.
        """
        for t in checked_steps(schedule, steps, self.limits):
            self.check(f"{name} at update {t}", schedule.at(t))

    @property
    def limits(self) -> tuple[float, float]:
        """The bounds as two floats with low <= x < high."""
        low = math.nextafter(self.low, math.inf) if self.above else self.low
        return low, math.nextafter(self.high, math.inf) if self.closed else self.high

    @property
    def bounds(self) -> str:
        """The bounds in words."""
        if self.high == math.inf:
            return f"{'>' if self.above else '>='} {self.low:g}"
        if self.low == self.high:
            return f"of {self.low:g}"
        opening = "(" if self.above or self.low == -math.inf else "["
        return f"in {opening}{self.low:g}, {self.high:g}{']' if self.closed else ')'}"


@dataclass(frozen=True)
class Whole:
    """A whole number of at least `low`."""

    default: int
    low: int = 1

    def check(self, name: str, value: object) -> int:
        """Return `value` if it is a whole number inside the bound, or raise."""
        count = as_whole(value)
        if count is None:
            raise BadTypeError(
                f"{name}={shown(value)} is not a whole number: give one {self.bounds}"
            )
        if count < self.low:
            raise BadValueError(
                f"{name}={shown(value)} is out of bounds: give a whole number {self.bounds}"
            )
        return count

    @property
    def bounds(self) -> str:
        """The bound in words."""
        return f">= {self.low}"


@dataclass(frozen=True)
class Flag:
    """True or false."""

    default: bool = False

    def check(self, name: str, value: object) -> bool:
        """Return `value` if it is a bool, or raise."""
        if not isinstance(value, bool):
            raise BadTypeError(f"{name}={shown(value)} is not a switch: give true or false")
        return value

    @property
    def bounds(self) -> str:
        """The values in words."""
        return "true or false"


@dataclass(frozen=True)
class Pair:
    """Two numbers, each with its own bounds."""

    first: Number
    second: Number

    @property
    def default(self) -> tuple[float, float]:
        """Both defaults."""
        return (self.first.default, self.second.default)

    def check(self, name: str, value: object) -> tuple[float, float]:
        """Return `value` as two floats inside the bounds, or raise."""
        if not isinstance(value, (tuple, list)) or len(value) != 2:
            raise BadTypeError(f"{name}={shown(value)} is not a pair: give two numbers")
        return (
            self.first.check(f"{name}[0]", value[0]),
            self.second.check(f"{name}[1]", value[1]),
        )

    @property
    def bounds(self) -> str:
        """The bounds of both in words."""
        return f"{self.first.bounds}; {self.second.bounds}"


HIDDEN, EXCEPT = "hidden", "!"
"""The word for the hidden matrices and kernels, and the prefix of selectors that exclude."""


@dataclass(frozen=True)
class Selectors:
    """A choice of tensors: 'hidden', a list of selectors, or {"exclude": selectors}.

    >>> Selectors().check("muon.matrix", {"exclude": ["conv1*"]})
    ('!conv1*',)
    """

    default: tuple[str, ...] = (HIDDEN,)

    def check(self, name: str, value: object) -> tuple[str, ...]:
        """Return the selectors, with the prefix '!' for those that exclude, or raise."""
        if value == HIDDEN:
            return (HIDDEN,)
        mark, listed = "", value
        if isinstance(value, Mapping) and set(value) == {"exclude"}:
            mark, listed = EXCEPT, value["exclude"]
        if not isinstance(listed, (tuple, list)) or not all(isinstance(v, str) for v in listed):
            raise BadTypeError(f"{name}={value!r} does not select tensors: give {self.bounds}")
        found = tuple(f"{mark}{text.strip()}" for text in listed)
        if not found or not all(text.removeprefix(EXCEPT) for text in found):
            raise BadValueError(f"{name}={value!r} names no tensor: give {self.bounds}")
        return found

    @property
    def bounds(self) -> str:
        """The forms in words."""
        return '"hidden", a list such as ["conv*", "layers.*"], or {"exclude": ["conv1*"]}'


@dataclass(frozen=True)
class Plain:
    """A value of an optimizer of one's own, of which no bounds are known."""

    default: object

    def check(self, name: str, value: object) -> object:
        """Return `value` if JSON can hold it, a list as a tuple, or raise."""
        if isinstance(value, (list, tuple)):
            return tuple(self.check(name, one) for one in value)
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise BadTypeError(f"{name}={shown(value)}: give {self.bounds}")

    @property
    def bounds(self) -> str:
        """The values in words."""
        return "a number, a text, true, false, or a list of these"


Hyperparameter = Number | Whole | Flag | Pair | Selectors | Plain
