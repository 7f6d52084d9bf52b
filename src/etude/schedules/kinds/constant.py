"""A constant value."""

# ruff: noqa: D102 - at, on, text and similar methods are documented on Schedule

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from etude.schedules._kind import Kind
from etude.schedules._numbers import Duration, number
from etude.schedules.arguments import FACTOR, LENGTH, maybe
from etude.schedules.registry import kind


@kind(
    "constant",
    "constant()",
    "constant(0.5)",
    "constant(length='10%')",
    arguments={"value": FACTOR, "length": maybe(LENGTH)},
)
@dataclass(frozen=True, slots=True, repr=False)
class Constant(Kind):
    """The same value at every step: s(t) = value.

    Args:
        value: The value.
        length: Steps, or a duration with a unit; None is endless, or fills the rest of the horizon.

    Raises:
        BadValueError: The value is not finite, or the length is negative.

    Examples:
        >>> constant(0.5)(1_000_000)
        0.5
    """

    value: float = 1.0
    length: Duration | None = None
    wanted: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.put_length()
        self.put(value=number("value", self.value))

    def at(self, t: float) -> float:
        if self.wanted is not None:
            raise TypeError  # the same error as arithmetic with a unit in the other kinds
        return self.value

    def on(self, t: Any, xp: Any) -> Any:
        return xp.full_like(t, self.value)

    @property
    def is_bound(self) -> bool:
        return self.wanted is None


constant = Constant
