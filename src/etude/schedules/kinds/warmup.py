"""Warmup: a rise from a small value to the full value."""

# ruff: noqa: D102 - at, on, text and similar methods are documented on Schedule

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from etude.schedules._kind import Kind
from etude.schedules._numbers import Duration, number
from etude.schedules.arguments import LENGTH, PART, OneOf
from etude.schedules.kinds.shapes import SHAPES, shape_at, shape_name, shape_on
from etude.schedules.registry import kind


@kind(
    "warmup",
    "warmup(500)",
    "warmup('5%', start=0.1)",
    "warmup(0)",
    "warmup(100, shape='cosine')",
    "warmup(100, start=0.01, shape='exponential')",
    "warmup(100, start=0.3, shape='constant')",
    within=(0.0, 1.0),
    arguments={"length": LENGTH, "start": PART, "shape": OneOf(SHAPES)},
)
@dataclass(frozen=True, slots=True, repr=False)
class Warmup(Kind):
    """A rise from `start` to the full value: s(t) = start + (1 − start)·t/W, and 1 from t = W on.

    Other shapes replace the straight line: cosine start + (1 − start)·sin²(πt/2W), exponential
    start^(1 − t/W), constant start until t = W.

    Args:
        length: W, in steps or with a unit; 0 means no warmup; None fills the rest of the horizon.
        start: Value at step 0, relative to the full value, in [0, 1].
        shape: 'linear', 'cosine', 'exponential' or 'constant'.

    Raises:
        BadValueError: The start is outside [0, 1], or is 0 with the exponential shape.

    Examples:
        >>> s = warmup(4)
        >>> [s(t) for t in range(6)]
        [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]

    Source: Goyal et al. 2017, "Accurate, Large Minibatch SGD".
    """

    length: Duration | None = None
    wanted: str | None = field(init=False, default=None)
    start: float = 0.0
    shape: str = "linear"

    warms_up: ClassVar[bool] = True

    def __post_init__(self) -> None:
        start = number("start", self.start, at_least=0.0, at_most=1.0)
        self.put_length()
        self.put(
            start=start,
            shape=shape_name(self.shape, start, 1.0),
        )

    def at(self, t: float) -> float:
        W: Any = self.length
        if t >= W:
            return 1.0
        return shape_at(self.shape, self.start, 1.0, t / W)

    def on(self, t: Any, xp: Any) -> Any:
        W: Any = self.length
        y = shape_on(self.shape, self.start, 1.0, xp.clip(t, 0.0, W) / (W or 1), xp)
        return xp.where(t >= W, xp.ones_like(y), y)


warmup = Warmup
