"""The one-cycle schedule: the rate rises and falls once, the momentum falls and rises.

Smith and Topin 2018, "Super-Convergence: Very Fast Training of Neural Networks".
"""

from __future__ import annotations

from collections.abc import Callable

from etude.errors import BadValueError
from etude.schedules._base import Schedule
from etude.schedules._numbers import Duration, Steps, choice, duration, exact, flag, nearest, number
from etude.schedules.arguments import FLAG, WHOLE, Arguments, OneOf, RealIn
from etude.schedules.kinds.constant import constant
from etude.schedules.kinds.cosine import cosine
from etude.schedules.kinds.polynomial import linear
from etude.schedules.kinds.warmup import warmup
from etude.schedules.registry import composition

_Phases = tuple[Duration, Duration | None, Duration | None]


_ARGUMENTS: Arguments = {
    "length": WHOLE,
    "rise": RealIn(0.01, 0.49, 3),
    "anneal": OneOf(("linear", "cosine")),
    "three_phase": FLAG,
}


@composition(
    "one_cycle",
    "one_cycle(1_000)",
    "one_cycle()",
    "one_cycle(1_000, rise=0.25, anneal='linear', three_phase=True)",
    within=(0.0, 1.0),
    arguments=_ARGUMENTS,
)
def one_cycle(
    length: Steps | None = None,
    rise: float = 0.3,
    div: float = 25.0,
    final_div: float = 1e4,
    anneal: str = "cosine",
    three_phase: bool = False,
) -> Schedule:
    """Return the one-cycle schedule with a peak of 1.

    It rises from 1/div to 1 in the first `rise` of the run, then falls to 1/(div·final_div) at the
    end. With `three_phase` it first falls back to 1/div, in as many steps as it rose.

    Args:
        length: Steps; None takes the whole horizon.
        rise: Share of the run in which it rises, in (0, 1), below ½ with three phases.
        div: The peak divided by the first value, at least 1.
        final_div: The first value divided by the last, at least 1.
        anneal: 'cosine' or 'linear'.
        three_phase: Whether it falls in two phases.

    Returns:
        A join of two or three segments.

    Raises:
        BadValueError: A number is out of bounds.

    Examples:
        >>> s = one_cycle(100)
        >>> s(0), s(30), s(100)
        (0.04, 1.0, 4e-06)

    Source: arguments as in torch `OneCycleLR`, the peak at rise·T and the end at T.
    """
    down_by = number("div", div, at_least=1.0)
    further = number("final_div", final_div, at_least=1.0)
    first = 1.0 / down_by
    falling = _shape(anneal)
    up, down, rest = _phases(length, rise, three_phase)
    start = warmup(up, start=first, shape=anneal)
    if not three_phase:
        return start >> falling(rest, 1.0 / (down_by * further))
    return start >> falling(down, first) >> first * falling(rest, 1.0 / further)


@composition(
    "one_cycle_momentum",
    "one_cycle_momentum(1_000)",
    "one_cycle_momentum(anneal='linear')",
    "one_cycle_momentum(1_000, three_phase=True)",
    within=(0.0, 1.0),
    arguments=_ARGUMENTS,
)
def one_cycle_momentum(
    length: Steps | None = None,
    rise: float = 0.3,
    high: float = 0.95,
    low: float = 0.85,
    anneal: str = "cosine",
    three_phase: bool = False,
) -> Schedule:
    """Return the momentum schedule for `one_cycle`: from high to low and back.

    Args:
        length: Steps; None takes the whole horizon.
        rise: Share of the run in which the rate rises and the momentum falls.
        high: Momentum at the start and the end, in (0, 1].
        low: Momentum at the peak of the rate, in [0, high].
        anneal: 'cosine' or 'linear'.
        three_phase: Whether the rate falls in two phases; the momentum stays high in the last.

    Returns:
        A join of two or three segments, in absolute values.

    Raises:
        BadValueError: A number is out of bounds.

    Examples:
        >>> s = one_cycle_momentum(100)
        >>> s(0), s(30), s(100)
        (0.95, 0.85, 0.95)
    """
    high = number("high", high, above=0.0, at_most=1.0)
    ratio = number("low", low, at_least=0.0, at_most=high) / high
    falling = _shape(anneal)
    up, down, rest = _phases(length, rise, three_phase)
    start = high * falling(up, ratio)
    if not three_phase:
        return start >> high * warmup(rest, start=ratio, shape=anneal)
    return start >> high * warmup(down, start=ratio, shape=anneal) >> constant(high, length=rest)


def _shape(anneal: str) -> Callable[[Duration | None, float], Schedule]:
    """Return the function that builds a decay from 1 to a floor in the shape `anneal`."""
    if choice("anneal", anneal, ("cosine", "linear")) == "cosine":
        return lambda length, floor: cosine(length, floor=floor)
    return lambda length, floor: linear(length, end=floor)


def _phases(length: Steps | None, rise: float, three_phase: bool) -> _Phases:
    """Return the lengths of the rise, of the first fall with three phases, and of the rest."""
    share = number("rise", rise, above=0.0, at_most=1.0)
    parts = 2 if flag("three_phase", three_phase) else 1
    if share * parts >= 1.0:
        raise BadValueError(
            f"rise is {rise}; it must be below {1 / parts:g}, so that there is a fall"
        )
    if length is None:
        text = f"{float(exact(share) * 100)!r}%"
        return text, text, None
    whole = duration("length", length)
    if isinstance(whole, str):
        raise BadValueError(
            f"length is {length!r}; give it in steps, or leave it out and call .over(horizon)"
        )
    up = nearest(exact(share) * exact(whole))
    return up, up, whole - parts * up
