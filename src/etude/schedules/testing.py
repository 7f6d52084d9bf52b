"""Random schedules for property tests; needs hypothesis.

Adapters' tests draw from here too, so a new kind is tested everywhere once it has a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from etude.schedules._base import Schedule
from etude.schedules._numbers import Steps
from etude.schedules.kinds.shapes import SHAPES
from etude.schedules.kinds.wsd import DECAYS
from etude.schedules.registry import KINDS

Draw = Callable[[st.SearchStrategy[Any]], Any]

WHOLE = st.integers(1, 5_000)
LENGTH: st.SearchStrategy[Steps] = st.one_of(
    WHOLE, st.just(0), st.floats(0.5, 500.0).map(lambda x: round(x, 3))
)
SPAN: st.SearchStrategy[Steps] = LENGTH.filter(bool)
SHARE = st.floats(0.0, 1.0).map(lambda x: round(x, 6))
PART = st.floats(0.01, 1.0).map(lambda x: round(x, 6))
POWER = st.floats(0.25, 4.0).map(lambda x: round(x, 3))
FACTOR = st.floats(-3.0, 3.0).map(lambda x: round(x, 6))
FLAG = st.booleans()


def _rising(least: int = 1) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(0, 5_000), min_size=least, max_size=6).map(
        lambda steps: tuple(sorted(steps))
    )


def _log() -> st.SearchStrategy[tuple[tuple[int, float | None], ...]]:
    metric = st.one_of(st.none(), st.floats(-2.0, 2.0).map(lambda x: round(x, 3)))
    return st.lists(st.tuples(st.integers(0, 5_000), metric), max_size=12).map(
        lambda events: tuple(sorted(events, key=lambda e: e[0]))
    )


def _values(count: int) -> st.SearchStrategy[tuple[float, ...]]:
    return st.lists(PART, min_size=count, max_size=count).map(tuple)


@st.composite
def _interpolate(draw: Draw) -> dict[str, Any]:
    points = draw(_rising(2))
    return {
        "points": points,
        "values": draw(_values(len(points))),
        "shape": draw(st.sampled_from(SHAPES)),
    }


@st.composite
def _steps(draw: Draw) -> dict[str, Any]:
    edges = draw(_rising())
    return {"boundaries": edges, "values": draw(_values(len(edges) + 1))}


def _polynomial() -> st.SearchStrategy[dict[str, Any]]:
    plain = st.fixed_dictionaries(
        {"length": LENGTH, "power": POWER, "end": SHARE, "k_decay": POWER}
    )
    cycle = st.fixed_dictionaries(
        {"length": SPAN, "power": POWER, "end": SHARE, "cycle": st.just(True)}
    )
    return plain | cycle


_ONE_CYCLE = {
    "length": WHOLE,
    "rise": st.floats(0.01, 0.49).map(lambda x: round(x, 3)),
    "anneal": st.sampled_from(["linear", "cosine"]),
    "three_phase": FLAG,
}
_CYCLE = {"up": SPAN, "down": st.none() | SPAN, "floor": SHARE}

ARGUMENTS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "constant": st.fixed_dictionaries({"value": FACTOR, "length": st.none() | LENGTH}),
    "cosine": st.fixed_dictionaries({"length": LENGTH, "floor": SHARE, "exponent": POWER}),
    "exp_range": st.fixed_dictionaries({**_CYCLE, "gamma": st.floats(0.99, 1.0)}),
    "exponential": st.fixed_dictionaries(
        {"gamma": st.floats(0.5, 1.0, exclude_min=True), "every": SPAN, "staircase": FLAG}
    ),
    "growing": st.fixed_dictionaries(
        {
            "length": LENGTH,
            "start": PART,
            "shape": st.sampled_from(SHAPES),
            "stairs": st.none() | st.integers(2, 9),
        }
    ),
    "hypergradient": st.fixed_dictionaries(
        {
            "beta": PART.map(lambda x: x / 2),
            "rule": st.sampled_from(["multiplicative", "additive"]),
            "low": SHARE,
            "log": _log(),
        }
    ),
    "inverse_time": st.fixed_dictionaries(
        {"k": SHARE, "power": POWER, "every": SPAN, "staircase": FLAG}
    ),
    "linear": st.fixed_dictionaries({"length": LENGTH, "start": FACTOR, "end": FACTOR}),
    "multi_step": st.fixed_dictionaries({"milestones": _rising(), "gamma": PART}),
    "natural_exponential": st.fixed_dictionaries({"k": SHARE, "every": SPAN}),
    "noam": st.fixed_dictionaries({"warmup": SPAN, "d_model": st.none() | st.integers(1, 999)}),
    "one_cycle": st.fixed_dictionaries(_ONE_CYCLE),
    "one_cycle_momentum": st.fixed_dictionaries(_ONE_CYCLE),
    "piecewise_constant": _steps(),
    "piecewise_interpolate": _interpolate(),
    "plateau": st.fixed_dictionaries(
        {
            "factor": PART,
            "patience": st.integers(0, 3),
            "mode": st.sampled_from(["min", "max"]),
            "on": st.sampled_from([None, "metric"]),
            "threshold": SHARE,
            "threshold_mode": st.sampled_from(["rel", "abs"]),
            "cooldown": st.integers(0, 3),
            "floor": SHARE,
            "log": _log(),
        }
    ),
    "polynomial": _polynomial(),
    "restarts": st.fixed_dictionaries(
        {
            "period": SPAN,
            "length_mult": st.sampled_from([1.0, 1.01, 1.5, 2.0, 3.0]),
            "height_mult": PART,
            "floor": SHARE,
            "cycles": st.none() | st.integers(1, 20),
        }
    ),
    "rex": st.fixed_dictionaries({"length": LENGTH, "floor": SHARE}),
    "rsqrt": st.fixed_dictionaries({"timescale": SPAN}),
    "step": st.fixed_dictionaries({"every": SPAN, "gamma": PART}),
    "tanh": st.fixed_dictionaries({"length": LENGTH, "floor": SHARE}),
    "triangular": st.fixed_dictionaries(
        {**_CYCLE, "per_cycle": PART, "per_step": st.floats(0.99, 1.0)}
    ),
    "triangular2": st.fixed_dictionaries(_CYCLE),
    "warmup": st.fixed_dictionaries(
        {"length": LENGTH, "start": PART, "shape": st.sampled_from(SHAPES)}
    ),
    "wsd": st.fixed_dictionaries(
        {
            "warmup": WHOLE,
            "decay": WHOLE,
            "length": st.integers(10_000, 20_000),
            "floor": SHARE,
            "shape": st.sampled_from(DECAYS),
        }
    ),
}
"""Valid arguments for every row of the table of kinds, all durations in steps."""


def kinds(*names: str) -> st.SearchStrategy[Schedule]:
    """Return bound schedules of these kinds; of all kinds without names."""
    return st.sampled_from(names or tuple(ARGUMENTS)).flatmap(
        lambda name: ARGUMENTS[name].map(lambda arguments: KINDS[name].make(**arguments))
    )


def schedules(depth: int = 3) -> st.SearchStrategy[Schedule]:
    """Return bound schedules of any kind, combined by the whole algebra."""
    return st.recursive(kinds(), _combined, max_leaves=2**depth)


def _combined(inner: st.SearchStrategy[Schedule]) -> st.SearchStrategy[Schedule]:
    closed = st.builds(lambda s, n: s.take(n) if s.is_open else s, inner, WHOLE)
    long = closed.filter(lambda s: s.length > 0)
    return st.one_of(
        st.builds(lambda a, b: a >> b, closed, inner),
        st.builds(lambda a, b: a * b, inner, inner),
        st.builds(lambda a, b: a + b, inner, inner),
        st.builds(lambda k, s: k * s, FACTOR, inner),
        st.builds(lambda s, c: s + c, inner, FACTOR),
        st.builds(lambda s, low, width: s.clip(low, low + width), inner, FACTOR, SHARE),
        st.builds(lambda s, n: s.repeat(n), long, st.none() | st.integers(1, 5)),
        st.builds(lambda s, k: s.stretch(k), inner, POWER),
        st.builds(lambda s, n: s.fit(n), long, SPAN),
        st.builds(lambda s, d: s.shift(d), inner, st.integers(-500, 500)),
        st.builds(lambda s, n: s.take(n), inner, LENGTH),
    )
