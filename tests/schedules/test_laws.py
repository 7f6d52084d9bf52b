"""Laws that hold for every kind and for everything the algebra makes of them."""

from __future__ import annotations

import copy
import math
import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from etude.schedules import (
    KINDS,
    Schedule,
    constant,
    cosine,
    from_json,
    linear,
    parse,
    restarts,
    step,
    to_json,
    warmup,
)
from etude.schedules.algebra import Sum
from etude.schedules.testing import drawn, kinds, schedules
from etude.schedules.wrappers import Offset

STEP = st.one_of(
    st.integers(0, 20_000), st.floats(0.0, 20_000.0), st.integers(0, 2**53), st.just(0)
)
STEPS = st.lists(STEP, min_size=1, max_size=30)


def values(s: Schedule, steps: list[float]) -> np.ndarray:
    return np.array([s(t) for t in steps])


def cancels(s: Schedule) -> bool:
    return any(isinstance(node, Sum | Offset) for node in s.walk())


@given(kinds(), STEPS)
def test_array_equals_scalar_for_every_kind(s: Schedule, steps: list[float]) -> None:
    out = s(np.array(steps, dtype=np.float64))
    assert out.dtype == np.float64
    np.testing.assert_allclose(out, values(s, steps), rtol=1e-14, atol=1e-300)


@given(schedules(), STEPS)
def test_array_equals_scalar_for_every_expression(s: Schedule, steps: list[float]) -> None:
    atol = 1e-13 if cancels(s) else 1e-300
    out = s(np.array(steps, dtype=np.float64))
    np.testing.assert_allclose(out, values(s, steps), rtol=1e-14, atol=atol)


@given(schedules(), st.lists(st.integers(0, 10_000), min_size=4, max_size=4))
def test_whole_steps_in_any_shape_give_the_same_values(s: Schedule, steps: list[int]) -> None:
    square = np.array(steps).reshape(2, 2)
    out = s(square)
    assert out.shape == (2, 2)
    np.testing.assert_array_equal(out.ravel(), s(np.array(steps, dtype=np.float64)))
    np.testing.assert_array_equal(s(square.astype(np.uint16)), out)


@given(schedules(), st.lists(st.integers(0, 10_000), min_size=2, max_size=20))
def test_the_order_of_steps_does_not_matter(s: Schedule, steps: list[int]) -> None:
    t = np.array(steps)
    order = np.argsort(t)
    np.testing.assert_allclose(s(t)[order], s(t[order]), rtol=1e-14, atol=1e-13)


@given(schedules())
def test_text_json_pickle_and_copy_round_trip(s: Schedule) -> None:
    text = repr(s)
    assume(len(text) <= 10_000)
    for other in (parse(text), from_json(to_json(s)), pickle.loads(pickle.dumps(s))):
        assert other == s
        assert hash(other) == hash(s)
        assert repr(other) == text
    assert copy.deepcopy(s) == s


@given(schedules(), STEP)
def test_a_scalar_is_a_python_float(s: Schedule, t: float) -> None:
    assert type(s(t)) is float


@given(schedules(), st.floats(-1e6, 0.0))
def test_before_step_zero_it_holds_the_first_value(s: Schedule, t: float) -> None:
    assert s(t) == s(0)
    np.testing.assert_allclose(s(np.array([t])), [s(0)], rtol=1e-14, atol=1e-13)


@given(kinds("cosine", "linear", "rex", "warmup", "growing", "tanh"), st.floats(0.0, 1e6))
def test_past_its_end_it_holds_the_last_value(s: Schedule, beyond: float) -> None:
    assert s(s.length + beyond) == s(s.length)


@given(schedules(2), schedules(2), STEPS)
def test_join_runs_each_segment_on_its_own_clock(
    a: Schedule, b: Schedule, steps: list[float]
) -> None:
    a = a.take(300) if a.is_open else a
    joined = a >> b
    for t in steps:
        expected = a(t) if t < a.length else b(t - a.length)
        assert joined(t) == pytest.approx(expected, rel=1e-12, abs=1e-13) or not math.isclose(
            # a segment inside a or b begins here, and the two clocks round differently
            b(max(t - a.length, 0) * (1 + 1e-15)),
            b(max(t - a.length, 0) * (1 - 1e-15)),
            rel_tol=1e-12,
        )


@given(kinds("warmup"), kinds("cosine"))
def test_join_of_warmup_and_decay_is_continuous(a: Schedule, b: Schedule) -> None:
    s = a >> b
    assert s(a.length) == 1.0 or b.length == 0
    if a.shape != "constant" and a.length > 0 and b.length > 0:  # type: ignore[attr-defined]
        assert s(a.length * (1 - 1e-9)) == pytest.approx(1.0, abs=1e-7)


@given(schedules(2), schedules(2), schedules(2))
def test_join_product_and_sum_are_associative(a: Schedule, b: Schedule, c: Schedule) -> None:
    assert a * (b * c) == (a * b) * c
    assert a + (b + c) == (a + b) + c
    a, b = a.take(10), b.take(20)
    assert a >> (b >> c) == (a >> b) >> c


@given(schedules(2), schedules(2), STEP, st.floats(-3, 3))
def test_products_sums_and_scaling_act_value_by_value(
    a: Schedule, b: Schedule, t: float, k: float
) -> None:
    assert (a * b)(t) == pytest.approx(a(t) * b(t), rel=1e-14, abs=1e-300)
    assert (a + b)(t) == pytest.approx(a(t) + b(t), rel=1e-14, abs=1e-13)
    assert (k * a)(t) == (a * k)(t) == k * a(t)
    assert (a + k)(t) == (k + a)(t) == a(t) + k
    assert (a - b)(t) == pytest.approx(a(t) - b(t), rel=1e-14, abs=1e-13)
    assert (k - a)(t) == pytest.approx(k - a(t), rel=1e-14, abs=1e-13)
    assert (-a)(t) == -a(t)


@given(schedules(2), st.floats(0.1, 10.0), st.integers(0, 5_000))
def test_stretch_slows_down(s: Schedule, factor: float, t: int) -> None:
    slow = s.stretch(factor)
    assert slow(t) == s(t / factor)
    if s.length is not None:
        assert slow.length == pytest.approx(s.length * factor)


@given(schedules(2), st.integers(0, 500), st.integers(0, 10**9))
def test_shift_delays_and_its_opposite_starts_in_the_middle(s: Schedule, by: int, t: int) -> None:
    assert s.shift(by)(t) == s(t - by)
    assert s.shift(-by)(t) == s(t + by)


@given(schedules(2), st.integers(1, 500), st.integers(1, 5), st.integers(0, 5_000))
def test_repeat_starts_anew(s: Schedule, length: int, times: int, t: int) -> None:
    part = s.take(length)
    expected = part(t % length) if t < length * times else part(length)
    assert part.repeat(times)(t) == expected
    assert part.repeat()(t) == part(t % length)


@given(schedules(2), st.floats(-2, 2), st.floats(0, 2), STEP)
def test_clip_keeps_within_bounds(s: Schedule, low: float, width: float, t: float) -> None:
    low, high = round(low, 3), round(low + width, 3)
    assert s.clip(low, high)(t) == min(max(s(t), low), high)
    assert s.clip(low)(t) == max(s(t), low)
    assert s.clip(high=high)(t) == min(s(t), high)


@given(schedules(2), st.integers(1, 1_000), STEP)
def test_take_cuts_and_holds(s: Schedule, length: int, t: float) -> None:
    assert s.take(length).length == length
    assert s.take(length)(t) == s(min(t, length))


@given(schedules(2), st.integers(1, 1_000), st.integers(1, 4_000))
def test_fit_keeps_the_ends(s: Schedule, length: int, fitted: int) -> None:
    part = s.take(length)
    assert part.fit(fitted).length == fitted
    assert part.fit(fitted)(0) == part(0)
    assert part.fit(fitted)(fitted) == part(length)


@pytest.mark.parametrize("name", [n for n, row in KINDS.items() if row.within])
def test_values_keep_the_bounds_that_the_kind_promises(name: str) -> None:
    low, high = KINDS[name].within or (0.0, 0.0)

    @given(kinds(name), STEPS)
    def check(s: Schedule, steps: list[float]) -> None:
        for t in steps:
            assert low <= s(t) <= high * (1 + 1e-15)

    check()


@given(
    st.floats(0.0, 0.9),
    st.sampled_from(["cosine", "linear", "rex", "polynomial"]),
    st.integers(2, 5_000),
)
def test_decays_begin_at_one_end_at_the_floor_and_never_rise(
    floor: float, name: str, length: int
) -> None:
    end = "floor" if name in ("cosine", "rex") else "end"
    s = KINDS[name].make(length, **{end: floor})
    seen = [s(length * i / 50) for i in range(51)]
    assert (s(0), s(length)) == (1.0, pytest.approx(floor, abs=1e-16))
    assert all(b <= a for a, b in pairwise(seen))


def test_every_row_of_the_table_is_drawn_by_the_property_tests() -> None:
    assert set(drawn()) == set(KINDS) - {"function"}


@given(st.integers(0, 200), st.integers(1, 10**6), st.sampled_from([1, 2, 3, 5]))
def test_restarts_begin_on_the_exact_step_however_far_out(i: int, period: int, mult: int) -> None:
    start = period * i if mult == 1 else period * (mult**i - 1) // (mult - 1)
    assume(0 < start < 2**52)
    s = restarts(period, length_mult=mult)
    assert s(start) == 1.0
    assert s(start - 1) < 1.0 or period == 1
    np.testing.assert_array_equal(s(np.array([start])), [1.0])


@given(st.integers(1, 10**8), st.integers(1, 10**6))
def test_step_decay_changes_on_the_exact_step(n: int, every: int) -> None:
    s = step(every, 0.999999)
    assert s(n * every) == s(n * every + every - 1) < s(n * every - 1)


def test_a_billion_steps_in_take_no_loop() -> None:
    # A loop over steps or cycles would take minutes here, so no clock is needed to see it.
    t = 10**15
    cycle = (t // 10 + 1).bit_length() - 1
    share = (t - 10 * (2**cycle - 1)) / (10 * 2**cycle)
    laps = (warmup(5) >> cosine(10)).repeat()
    for s, expected in (
        (restarts(10, length_mult=2.0), (1 + math.cos(math.pi * share)) / 2),
        (restarts(1), 1.0),
        (laps, laps(t % 15)),
        (step(1, 0.5), 0.0),
        (constant(0.5).take(10**9) >> linear(10**9), 0.0),
    ):
        for _ in range(100):
            assert s(t) == pytest.approx(expected, rel=1e-9, abs=0)
