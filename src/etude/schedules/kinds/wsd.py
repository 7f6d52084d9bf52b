"""WSD: warmup, stable, decay.

Hu et al. 2024, "MiniCPM"; Hägele et al. 2024, "Scaling Laws and Compute-Optimal Training Beyond
Fixed Training Durations".
"""

from __future__ import annotations

from etude.schedules._base import Schedule
from etude.schedules._numbers import Duration, choice
from etude.schedules.arguments import SHARE, WHOLE, OneOf, WholeIn
from etude.schedules.kinds.constant import constant
from etude.schedules.kinds.cosine import cosine
from etude.schedules.kinds.polynomial import linear, polynomial
from etude.schedules.kinds.warmup import warmup as warmup_kind
from etude.schedules.registry import composition

DECAYS = ("linear", "cosine", "sqrt")
"""The shapes of a decay, with u = t/T: linear 1 − u, cosine ½(1 + cos πu), sqrt 1 − √u."""


def falling(shape: str, length: Duration | None, floor: float) -> Schedule:
    """Return a decay from 1 to a floor, in the named shape."""
    match choice("shape", shape, DECAYS):
        case "linear":
            return linear(length, end=floor)
        case "cosine":
            return cosine(length, floor=floor)
    return polynomial(length, end=floor, k_decay=0.5)


@composition(
    "wsd",
    "wsd()",
    "wsd(500, 1_000, length=10_000)",
    "wsd('2%', '20%', floor=0.1, shape='sqrt')",
    "wsd(0, 100, shape='cosine')",
    within=(0.0, 1.0),
    arguments={
        "warmup": WHOLE,
        "decay": WHOLE,
        "length": WholeIn(10_000, 20_000),
        "floor": SHARE,
        "shape": OneOf(DECAYS),
    },
)
def wsd(
    warmup: Duration = "5%",
    decay: Duration = "10%",
    length: Duration | None = None,
    floor: float = 0.0,
    shape: str = "linear",
) -> Schedule:
    """Return a warmup, a constant and a decay, joined.

    The constant fills the rest of the horizon; `s.cooldown(at=...)` starts the decay early.

    Args:
        warmup: Steps of warmup, or a duration with a unit.
        decay: Steps of decay, or a duration with a unit.
        length: Total steps; None takes the whole horizon.
        floor: Value at the end, relative to the peak of 1, in [0, 1].
        shape: The shape of the decay: 'linear', 'cosine' or 'sqrt'.

    Returns:
        A join of three segments.

    Raises:
        BadValueError: A number is out of bounds.

    Examples:
        >>> wsd().over(1_000)
        warmup(50) >> constant(length=850) >> linear(100)
    """
    s = warmup_kind(warmup) >> constant() >> falling(shape, decay, floor)
    return s if length is None else s.take(length)
