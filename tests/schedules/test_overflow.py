"""No argument that a kind accepts makes it fail when it is asked for a value."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.errors import EtudeError
from etude.schedules import KINDS, Schedule, restarts

EXTREME = [5e-324, 1e-308, 1e-9, 0.5, 1, 1.01, 2, 3, 10, 1e16, 2**53, 1e300, 1e308]
NUMBERS = st.sampled_from([*EXTREME, 0, 0.9, *(-x for x in EXTREME)])
ROWS = st.lists(NUMBERS, min_size=1, max_size=3).map(lambda xs: tuple(sorted(set(xs))))
PAIRS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=3).map(
    lambda ps: tuple(sorted(dict(ps).items()))
)
ARGUMENTS = st.one_of(NUMBERS, NUMBERS, NUMBERS, ROWS, PAIRS, st.booleans(), st.none())
STEPS = [0, 0.5, 1, 7, 1e6, 1e15, 2**53 - 1, 2**53]
CHANGES = [
    lambda s: s,
    lambda s: 1e308 * s,
    lambda s: (1e300 * s) * (1e300 * s),
    lambda s: s.over(100),
    lambda s: s.over(2**53),
    lambda s: s.fit(5),
    lambda s: s.stretch(1e-300),
    lambda s: s.repeat(),
    lambda s: s.shift(3),
    lambda s: s.take(4),
]


@st.composite
def drawn(draw: Any, name: str) -> Schedule | None:
    """Return a schedule of a kind with extreme arguments, None if it refuses them in words."""
    make = KINDS[name].make
    given: dict[str, Any] = {}
    for parameter in inspect.signature(make).parameters.values():
        # What has a default is mostly left at it: two extremes at once are mostly refused.
        if parameter.default is parameter.empty or draw(st.integers(0, 3)) == 0:
            given[parameter.name] = draw(ARGUMENTS)
    try:
        return draw(st.sampled_from(CHANGES))(make(**given))
    except EtudeError:
        return None


@pytest.mark.parametrize("name", sorted(KINDS))
@settings(max_examples=40)
@given(data=st.data())
def test_what_is_accepted_can_be_evaluated_everywhere(name, data):
    schedule = data.draw(drawn(name))
    if schedule is None or not schedule.is_bound:
        return
    values = [schedule(t) for t in STEPS]
    with np.errstate(all="ignore"):
        array = schedule(np.array(STEPS, dtype=float))
    assert all(type(value) in (float, int) for value in values)
    assert array.shape == (len(STEPS),)


@given(
    st.sampled_from([1, 10, 0.3, 2**52]), st.sampled_from([1e3, 1e20, 1e36, 1e100, 1e300, 1e308])
)
def test_cycles_that_outgrow_every_number_fall_as_slowly_as_they_should(period, growth):
    s = restarts(period, length_mult=growth)
    second = period * growth
    for t in (period, 2 * period, 2.0**53):
        if t - period < second:
            # cos² falls from 1 by (πu/2T)², and to the bit not at all where T outgrows float64
            u = min(1.0, (t - period) / second)
            assert s(t) == pytest.approx(0.5 * (1 + math.cos(math.pi * u)), abs=1e-12)
    assert s(np.array([period, 2**53], dtype=float)).tolist() == pytest.approx(
        [s(period), s(2**53)]
    )
