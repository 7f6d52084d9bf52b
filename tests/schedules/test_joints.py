"""Schedules at their joints: there, a step before and after, as a number and in an array."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from etude.errors import BadValueError
from etude.schedules import (
    Schedule,
    constant,
    cosine,
    linear,
    one_cycle,
    parse,
    restarts,
    triangular,
    warmup,
)
from etude.schedules._kind import Kind
from etude.schedules.algebra import Join, Sum
from etude.schedules.testing import kinds, schedules
from etude.schedules.timing import Repeat
from etude.schedules.wrappers import Offset


def joints(s: Schedule) -> set[float]:
    """Return the steps at which a part of a schedule may begin or end, on the part's own clock."""
    found: set[float] = {0}
    for node in s.walk():
        if isinstance(node, Join):
            found |= set(node.starts or ())
        if isinstance(node, Repeat):
            found |= {node.period, 2 * node.period, 3 * node.period}
        if isinstance(node, Kind):
            found |= {jump for jump in node.jumps if isinstance(jump, int | float)}
        if node.length is not None:
            found.add(node.length)
    return {step for step in found if 0 <= step <= 2**53}


def around(steps: set[float]) -> Iterator[float]:
    """Yield each step, the whole numbers beside it, and the nearest floats."""
    for step in sorted(steps):
        near = (step, math.nextafter(step, 0), math.nextafter(step, math.inf))
        for one in (*near, math.floor(step), math.ceil(step), step - 1, step + 1):
            if 0 <= one <= 2**53:
                yield one


@given(schedules())
def test_at_every_joint_an_array_has_the_value_of_the_number(s: Schedule) -> None:
    steps = list(around(joints(s)))
    shifted = any(isinstance(node, Sum | Offset) for node in s.walk())
    found = [s(step) for step in steps]
    for given_steps in (steps, steps[::-1]):  # a rising array is evaluated part by part
        out = s(np.array(given_steps, dtype=np.float64))
        expected = found if given_steps is steps else found[::-1]
        np.testing.assert_allclose(out, expected, rtol=1e-14, atol=1e-13 if shifted else 1e-300)


@given(schedules(2), schedules(2), st.integers(1, 300))
def test_the_step_of_a_joint_is_the_first_of_what_follows(
    a: Schedule, b: Schedule, length: int
) -> None:
    joined = a.take(length) >> b
    assert joined(length) == b(0)
    assert joined(length - 1) == a(length - 1)
    assert joined(np.array([length - 1, length])).tolist() == pytest.approx(
        [a(length - 1), b(0)], rel=1e-14, abs=1e-13
    )


@given(schedules(2), st.integers(1, 5_000))
def test_what_is_bound_to_a_run_is_as_long_as_it(s: Schedule, horizon: int) -> None:
    """`over` promises it of whatever is open; a length that is off by rounding moves a joint."""
    for whole in (
        cosine() * s,
        warmup("5%") >> cosine(),
        warmup(0) >> cosine().stretch(7) >> constant(0.5, length=0),
        linear().repeat(7) >> cosine(0),
        (cosine().stretch(49) * 0.5).repeat(3),
    ):
        assert whole.over(horizon).length == horizon


@given(st.integers(1, 400), st.integers(1, 200), st.floats(0.0, 1.0))
def test_a_warmup_that_is_longer_than_the_run_is_refused_or_cut(
    W: int, T: int, start: float
) -> None:
    assume(T < W)
    with pytest.raises(BadValueError, match="there are only"):
        (warmup(W) >> cosine()).over(T)
    s = (warmup(W, start=start) >> cosine(10)).over(
        T
    )  # of a fixed length: it goes as far as it does
    assert s(T - 1) == warmup(W, start=start)(T - 1) <= 1.0


@given(
    st.sampled_from(
        [
            triangular(10),
            triangular(7, 3, per_step=0.99),
            restarts(8),
            restarts(5, length_mult=2, floor=0.1),
            linear(6).repeat(),
            (cosine(5) >> constant(0.2, length=2)).repeat(),
            constant(),
        ]
    ),
    st.integers(0, 100),
    st.integers(1, 100),
    st.integers(1, 100),
)
def test_a_cycle_does_not_know_how_long_the_run_is(
    s: Schedule, at: int, one: int, more: int
) -> None:
    """What is extended is what was planned at that length."""
    assert s.extend(at=at, horizon=at + more) == s
    short, long = s.over(one), s.over(one + more)
    assert [short(t) for t in range(one)] == [long(t) for t in range(one)]


@given(schedules(2), st.integers(1, 200), st.integers(1, 199), st.integers(1, 400))
def test_an_extended_schedule_keeps_its_past_makes_no_jump_and_ends_where_it_did(
    s: Schedule, length: int, at: int, more: int
) -> None:
    assume(at < length)
    s = s.take(length)
    longer = s.extend(at=at, horizon=at + more)
    assert longer.length == at + more
    past = np.arange(at + 1)
    np.testing.assert_allclose(longer(past), s(past), rtol=1e-12, atol=1e-12)
    assert longer(at + more) == pytest.approx(s(length), rel=1e-12, abs=1e-12)
    assert parse(repr(longer)) == longer


@given(kinds(), st.integers(1, 50), st.integers(51, 400))
def test_taking_further_than_the_end_holds_the_end(s: Schedule, length: int, far: int) -> None:
    assume(not getattr(s, "cycle", False))  # a polynomial that is meant to go on
    part = s.take(length) if s.is_open else s
    assert part(part.length + far) == part(part.length)
    out = part(np.array([part.length, part.length + far], dtype=np.float64))
    assert out[0] == pytest.approx(out[1], rel=1e-14, abs=1e-300)


def test_one_cycle_at_its_ends() -> None:
    s = one_cycle(100)
    assert s(0) < s(30) == max(s(t) for t in range(101))
    assert s(100) == min(s(t) for t in range(101))
