"""A rate that grows over the whole run, smoothly or in stairs."""

# ruff: noqa: D102 - at, on, text and similar methods are documented on Schedule

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from etude.schedules._kind import Kind
from etude.schedules._numbers import Duration, count, number
from etude.schedules.arguments import LENGTH, PART, OneOf, WholeIn, maybe
from etude.schedules.kinds.shapes import SHAPES, shape_at, shape_name, shape_on
from etude.schedules.registry import kind


@kind(
    "growing",
    "growing(100)",
    "growing('50%', start=1e-3, stairs=5)",
    "growing(100, start=0.0, shape='linear', stairs=4)",
    "growing(100, shape='cosine')",
    within=(0.0, 1.0),
    arguments={
        "length": LENGTH,
        "start": PART,
        "shape": OneOf(SHAPES),
        "stairs": maybe(WholeIn(2, 9)),
    },
)
@dataclass(frozen=True, slots=True, repr=False)
class Growing(Kind):
    """A rise over a whole run: s(t) = start^(1 − u), u = t/T, and 1 from t = T on.

    With n stairs the value is constant within each n-th of T, and u = ⌊nt/T⌋/(n − 1), so that
    the last stair is at 1. Other shapes as in `warmup`.

    Args:
        length: T, in steps or with a unit; None fills the rest of the horizon.
        start: Value at step 0, in [0, 1]; above 0 for the exponential shape.
        shape: 'exponential', 'linear' or 'cosine'.
        stairs: n ≥ 2, or None for a smooth rise.

    Raises:
        BadValueError: A number is out of bounds.

    Examples:
        >>> s = growing(30, start=0.25, stairs=3)
        >>> s(0), s(9), s(10), s(20), s(30)
        (0.25, 0.25, 0.5, 1.0, 1.0)
    """

    length: Duration | None = None
    wanted: str | None = field(init=False, default=None)
    start: float = 0.01
    shape: str = "exponential"
    stairs: int | None = None

    def __post_init__(self) -> None:
        start = number("start", self.start, at_least=0.0, at_most=1.0)
        self.put_length()
        self.put(
            start=start,
            shape=shape_name(self.shape, start, 1.0),
            stairs=None if self.stairs is None else count("stairs", self.stairs, at_least=2),
        )

    def at(self, t: float) -> float:
        T: Any = self.length
        if t >= T:
            return 1.0
        n = self.stairs
        return shape_at(self.shape, self.start, 1.0, t / T if n is None else t * n // T / (n - 1))

    def on(self, t: Any, xp: Any) -> Any:
        T: Any = self.length
        n = self.stairs
        u = xp.clip(t, 0.0, T) / (T or 1)
        if n is not None and T:
            u = xp.clip(t, 0.0, T) * n // float(T) / (n - 1)
        y = shape_on(self.shape, self.start, 1.0, u, xp)
        return xp.where(t >= T, xp.ones_like(y), y)


growing = Growing
