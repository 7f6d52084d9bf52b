"""Values that change at given steps: multi-step decay and piecewise constants."""

# ruff: noqa: D102 - at, on, text and similar methods are documented on Schedule

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

from etude.errors import BadTypeError, BadValueError
from etude.schedules._arrays import table
from etude.schedules._base import is_steps
from etude.schedules._kind import Endless
from etude.schedules._numbers import Duration, duration, number
from etude.schedules.arguments import PART, AsMany, Rising
from etude.schedules.kinds.exponential import power
from etude.schedules.registry import kind


def ordered(name: str, values: object) -> tuple[Duration, ...]:
    """Return durations as a tuple that does not decrease."""
    found = tuple(duration(name, v) for v in sequence(name, values))
    for before, after in pairwise(found):
        if is_steps(before) and is_steps(after) and after < before:  # type: ignore[operator]
            raise BadValueError(f"{name} has {after} after {before}; put them in rising order")
    return found


def sequence(name: str, values: object) -> tuple[Any, ...]:
    """Return a tuple or list as a tuple, or raise if it is empty."""
    if not isinstance(values, tuple | list):
        raise BadTypeError(f"{name} is {values!r}; it must be a tuple, such as (30, 60)")
    if not values:
        raise BadValueError(f"{name} is empty; give at least one value")
    return tuple(values)


@kind(
    "multi_step",
    "multi_step((30, 60, 80), 0.1)",
    "multi_step((5,), 0.5)",
    "multi_step(('50%', '75%'))",
    arguments={"milestones": Rising(), "gamma": PART},
)
@dataclass(frozen=True, slots=True, repr=False)
class MultiStep(Endless):
    """A factor γ at each milestone: s(t) = γ^(number of milestones ≤ t).

    Args:
        milestones: Rising steps, or durations with a unit; a repeated milestone counts each time.
        gamma: γ > 0.

    Raises:
        BadValueError: The milestones are empty or out of order, or γ is not positive.

    Examples:
        >>> s = multi_step((30, 60), 0.5)
        >>> s(29), s(30), s(60)
        (1.0, 0.5, 0.25)
    """

    milestones: tuple[Duration, ...]
    gamma: float = 0.1
    values: tuple[float, ...] = field(init=False, compare=False)

    durations: ClassVar[tuple[str, ...]] = ("milestones",)
    by_position: ClassVar[int] = 2

    def __post_init__(self) -> None:
        milestones = ordered("milestones", self.milestones)
        gamma = number("gamma", self.gamma, above=0.0)
        values = tuple(power(gamma, n) for n in range(len(milestones) + 1))
        self.put(milestones=milestones, gamma=gamma, values=values)

    @property
    def jumps(self) -> tuple[Any, ...]:
        return self.milestones

    def at(self, t: float) -> float:
        return self.values[bisect_right(self.milestones, t)]

    def on(self, t: Any, xp: Any) -> Any:
        return look_up(self.milestones, self.values, t, xp)


@kind(
    "piecewise_constant",
    "piecewise_constant((100, 200), (1.0, 0.5, 0.1))",
    "piecewise_constant(('10%',), (0.1, 1.0))",
    arguments={"boundaries": Rising(), "values": AsMany(PART, "boundaries", 1)},
)
@dataclass(frozen=True, slots=True, repr=False)
class PiecewiseConstant(Endless):
    """A constant value between boundaries: s(t) = v_i for b_{i−1} ≤ t < b_i.

    Args:
        boundaries: Rising steps b, or durations with a unit.
        values: Values v, one more than the boundaries.

    Raises:
        BadValueError: The boundaries are out of order, or the counts do not match.

    Examples:
        >>> s = piecewise_constant((100, 200), (1.0, 0.5, 0.1))
        >>> s(99), s(100), s(200)
        (1.0, 0.5, 0.1)
    """

    boundaries: tuple[Duration, ...]
    values: tuple[float, ...]

    durations: ClassVar[tuple[str, ...]] = ("boundaries",)
    by_position: ClassVar[int] = 2

    def __post_init__(self) -> None:
        boundaries = ordered("boundaries", self.boundaries)
        values = tuple(number("values", v) for v in sequence("values", self.values))
        if len(values) != len(boundaries) + 1:
            raise BadValueError(
                f"values has {len(values)} numbers; {len(boundaries)} boundaries need "
                f"{len(boundaries) + 1}, one before each and one after the last"
            )
        self.put(boundaries=boundaries, values=values)

    @property
    def jumps(self) -> tuple[Any, ...]:
        return self.boundaries

    def at(self, t: float) -> float:
        return self.values[bisect_right(self.boundaries, t)]

    def on(self, t: Any, xp: Any) -> Any:
        return look_up(self.boundaries, self.values, t, xp)


def look_up(edges: tuple[Any, ...], values: tuple[float, ...], t: Any, xp: Any) -> Any:
    """Return values[number of edges ≤ t] for an array of steps."""
    return pick(table(values, t, xp), below(table(edges, t, xp), t, xp), xp)


def below(edges: Any, t: Any, xp: Any) -> Any:
    """Return the number of edges ≤ t, for an array t of any shape."""
    flat = xp.searchsorted(edges, xp.reshape(t, (-1,)), side="right")
    return xp.reshape(flat, t.shape)


def pick(values: Any, index: Any, xp: Any) -> Any:
    """Return values[index] for an index of any shape."""
    return xp.reshape(xp.take(values, xp.reshape(index, (-1,)), axis=0), index.shape)


multi_step = MultiStep
piecewise_constant = PiecewiseConstant
