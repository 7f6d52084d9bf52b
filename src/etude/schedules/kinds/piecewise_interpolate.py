"""A curve through given points."""

# ruff: noqa: D102 - at, on, text and the like are documented on Schedule

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from etude.errors import BadValueError
from etude.schedules._arrays import table
from etude.schedules._base import is_steps
from etude.schedules._kind import Kind
from etude.schedules._numbers import Duration, Steps, number
from etude.schedules.arguments import PART, AsMany, OneOf, Rising
from etude.schedules.kinds.milestones import below, ordered, pick, sequence
from etude.schedules.kinds.shapes import SHAPES, shape_at, shape_name, shape_on
from etude.schedules.registry import kind


@kind(
    "piecewise_interpolate",
    "piecewise_interpolate((0, 100, 400), (0.1, 1.0, 0.0))",
    "piecewise_interpolate((10, '50%', '100%'), (0.1, 1.0, 0.2), shape='cosine')",
    "piecewise_interpolate((0, 100), (0.1, 1.0), shape='exponential')",
    "piecewise_interpolate((5, 5, 20), (0.1, 1.0, 0.5))",
    arguments={"points": Rising(2), "values": AsMany(PART, "points"), "shape": OneOf(SHAPES)},
)
@dataclass(frozen=True, slots=True, repr=False)
class PiecewiseInterpolate(Kind):
    """A curve through points (p_i, v_i), constant before the first point and after the last.

    s(t) = shape(v_i → v_{i+1}, (t − p_i)/(p_{i+1} − p_i)) for p_i ≤ t < p_{i+1}; the shapes are
    those of `warmup`. If two points have the same step, the value jumps there.

    Args:
        points: Rising steps p, or durations with a unit.
        values: Values v, one per point.
        shape: 'linear', 'cosine', 'exponential' or 'constant'.

    Raises:
        BadValueError: The points are out of order, or the counts do not match.

    Examples:
        >>> s = piecewise_interpolate((0, 100, 400), (0.0, 1.0, 0.25))
        >>> s(50), s(100), s(200), s(1_000)
        (0.5, 1.0, 0.75, 0.25)
    """

    points: tuple[Duration, ...]
    values: tuple[float, ...]
    shape: str = "linear"

    durations: ClassVar[tuple[str, ...]] = ("points",)
    by_position: ClassVar[int] = 2

    def __post_init__(self) -> None:
        points = ordered("points", self.points)
        values = tuple(number("values", v) for v in sequence("values", self.values))
        if len(values) != len(points):
            raise BadValueError(
                f"values has {len(values)} numbers and points {len(points)}; give one per point"
            )
        shape = shape_name(self.shape, values[0], values[-1])
        for start, end in pairwise(values):
            shape_name(shape, start, end)
        self.put(points=points, values=values, shape=shape)

    def at(self, t: float) -> float:
        points: Any = self.points
        i = bisect_right(points, t)
        if i == 0:
            return self.values[0]
        if i == len(points):
            return self.values[-1]
        u = (t - points[i - 1]) / (points[i] - points[i - 1])
        return shape_at(self.shape, self.values[i - 1], self.values[i], u)

    def on(self, t: Any, xp: Any) -> Any:
        points: Any = self.points
        # The constant values at both ends become segments, so that every step is in a segment.
        first, last = (*points[:1], *points), (*points, points[-1])
        v0, v1 = (*self.values[:1], *self.values), (*self.values, self.values[-1])
        lengths = tuple(b - a or 1 for a, b in zip(first, last, strict=True))
        i = below(table(points, t, xp), t, xp)

        def chosen(values: tuple[float, ...]) -> Any:
            return pick(table(values, t, xp), i, xp)

        u = (t - chosen(first)) / chosen(lengths)
        inside = (i > 0) & (i < len(points))
        u = xp.where(inside, u, xp.zeros_like(u))
        return shape_on(self.shape, chosen(v0), chosen(v1), u, xp)

    @property
    def length(self) -> Steps | None:
        end = self.points[-1]
        return None if isinstance(end, str) else end

    @property
    def is_open(self) -> bool:
        return False

    @property
    def is_bound(self) -> bool:
        return is_steps(self.points)


piecewise_interpolate = PiecewiseInterpolate
