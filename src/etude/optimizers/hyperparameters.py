"""What a hyperparameter may be: a number, a whole number, a switch or a pair."""

from __future__ import annotations

import math
from dataclasses import dataclass

from etude.errors import BadTypeError, BadValueError, shown


@dataclass(frozen=True)
class Number:
    """A number in [low, high); in [low, high] where `closed`, above `low` where `above`.

    `once` says that the optimizer reads it when it is built: changing it later does nothing.
    """

    default: float
    low: float = 0.0
    high: float = math.inf
    closed: bool = False
    above: bool = False
    once: bool = False

    def check(self, name: str, value: object) -> float:
        """Return `value` as a float inside the bounds, or raise."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise BadTypeError(f"{name}={shown(value)} is not a number: give one {self.bounds}")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        enough = self.low < number if self.above else self.low <= number
        inside = enough and (number <= self.high if self.closed else number < self.high)
        if not inside or not math.isfinite(number):
            raise BadValueError(
                f"{name}={shown(value)} is out of bounds: give a number {self.bounds}"
            )
        return number + 0.0  # turns -0.0 into 0.0: equal choices have equal texts

    @property
    def bounds(self) -> str:
        """The bounds in words."""
        if self.high == math.inf:
            return f"{'>' if self.above else '>='} {self.low:g}"
        opening = "(" if self.above or self.low == -math.inf else "["
        return f"in {opening}{self.low:g}, {self.high:g}{']' if self.closed else ')'}"


@dataclass(frozen=True)
class Whole:
    """A whole number of at least `low`."""

    default: int
    low: int = 1

    def check(self, name: str, value: object) -> int:
        """Return `value` if it is a whole number inside the bound, or raise."""
        if isinstance(value, bool) or not isinstance(value, int):
            raise BadTypeError(
                f"{name}={shown(value)} is not a whole number: give one {self.bounds}"
            )
        if value < self.low:
            raise BadValueError(
                f"{name}={shown(value)} is out of bounds: give a whole number {self.bounds}"
            )
        return value

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
    """Two numbers, each within bounds of its own."""

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


Hyperparameter = Number | Whole | Flag | Pair
