"""Feedback: plateau as in torch, hypergradient control, and replay as a pure function of a log."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from etude.errors import BadTypeError, BadValueError, MovedError
from etude.schedules import (
    EventLog,
    constant,
    cosine,
    from_json,
    hypergradient,
    linear,
    parse,
    plateau,
    step,
    to_json,
    warmup,
)

ABOVE_ZERO = st.floats(0.0, 2.0).map(lambda x: round(x, 2))
METRICS = st.lists(ABOVE_ZERO | st.just(math.nan), max_size=40)
SIGNED = st.lists(
    st.floats(-2.0, 2.0).map(lambda x: round(x, 2)) | st.just(math.nan), min_size=1, max_size=40
)


@given(
    METRICS,
    st.sampled_from(["min", "max"]),
    st.floats(0.05, 0.95),
    st.integers(0, 3),
    st.floats(0.0, 0.5),
    st.sampled_from(["rel", "abs"]),
    st.integers(0, 3),
    st.floats(0.0, 0.3),
    st.sampled_from([0.0, 1e-8, 0.05]),
)
def test_plateau_equals_torch_option_by_option(
    metrics: list[float],
    mode: str,
    factor: float,
    patience: int,
    threshold: float,
    threshold_mode: str,
    cooldown: int,
    floor: float,
    eps: float,
) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    peer = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        mode,
        factor,
        patience,
        threshold,
        threshold_mode,
        cooldown,
        floor,
        eps,  # type: ignore[arg-type]
    )
    s = plateau(factor, patience, mode, threshold, threshold_mode, cooldown, floor, eps)
    for t, metric in enumerate(metrics):
        peer.step(metric)
        s = s.record(t, metric)
        assert s(t) == optimizer.param_groups[0]["lr"]


@given(SIGNED, st.floats(0.0, 0.5), st.sampled_from(["rel", "abs"]), st.integers(0, 3))
def test_a_smaller_metric_is_to_min_what_its_opposite_is_to_max(
    metrics: list[float], threshold: float, threshold_mode: str, patience: int
) -> None:
    """Torch's margin changes its direction below zero, so that this law does not hold there."""
    common = {
        "factor": 0.5,
        "patience": patience,
        "threshold": threshold,
        "threshold_mode": threshold_mode,
        "eps": 0.0,
    }
    low = plateau(mode="min", **common).given(list(enumerate(metrics)))
    high = plateau(mode="max", **common).given([(t, -m) for t, m in enumerate(metrics)])
    assert [low(t) for t in range(len(metrics))] == [high(t) for t in range(len(metrics))]


@given(
    st.floats(-1e6, 1e6).filter(lambda x: abs(x) > 1e-6),
    st.sampled_from(["min", "max"]),
    st.integers(0, 3),
    st.sampled_from([1e-4, 0.1]),
)
def test_a_metric_that_stands_still_is_a_stall_on_either_side_of_zero(
    value: float, mode: str, patience: int, threshold: float
) -> None:
    s = plateau(factor=0.5, patience=patience, mode=mode, threshold=threshold, eps=0.0)
    assert s.given([(t, value) for t in range(patience + 1)])(patience) == 1.0
    assert s.given([(t, value) for t in range(patience + 2)])(patience + 1) == 0.5
    within, beyond = 0.9 * threshold * abs(value), 1.1 * threshold * abs(value)
    sign = -1 if mode == "min" else 1
    hasty = plateau(factor=0.5, patience=0, mode=mode, threshold=threshold)
    assert hasty.given([(0, value), (1, value + sign * within)])(1) == 0.5
    assert hasty.given([(0, value), (1, value + sign * beyond)])(1) == 1.0


def test_peers_part_below_zero() -> None:
    """torch and optax take threshold * best, Keras a difference: only there do all stall."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
    for _ in range(20):
        theirs.step(-1.0)
    assert optimizer.param_groups[0]["lr"] == 1.0  # it takes every -1 for an improvement on -1
    assert plateau(factor=0.5, patience=1).given([(t, -1.0) for t in range(1, 9)])(8) == 0.125


def test_what_a_plateau_hears_is_written_and_read() -> None:
    assert plateau().signals == ("loss",)
    assert plateau(mode="max").signals == plateau(on="metric").signals == ("metric",)
    assert hypergradient().signals == ("gradient",)
    assert cosine(10).signals == ()
    both = warmup(5) >> 0.5 * plateau(on="loss").take(9) >> plateau(mode="max")
    assert both.signals == ("loss", "metric")
    for s in (plateau(on="metric", mode="min"), plateau(on="loss"), both):
        assert parse(repr(s)) == s == from_json(to_json(s))
        assert parse(repr(s)).signals == s.signals


@pytest.mark.parametrize(
    ("old", "new"), [("hears", "Schedule.signals"), ("hear", "Schedule.with_events")]
)
def test_an_old_name_of_a_schedule_says_the_new_one(old: str, new: str) -> None:
    with pytest.raises(MovedError, match=f"Schedule.{old} is now {new}"):
        getattr(plateau(), old)
    assert not hasattr(plateau(), old)
    with pytest.raises(BadValueError, match="on is 'loss' and mode is 'max', but a loss is better"):
        plateau(on="loss", mode="max")
    with pytest.raises(BadValueError, match="unknown on 'metrics': did you mean 'metric'"):
        plateau(on="metrics")


FEEDBACK = st.sampled_from(
    [plateau(patience=1, factor=0.5), hypergradient(beta=0.3), hypergradient(0.1, "additive")]
)
EVENTS = st.lists(
    st.tuples(st.integers(0, 200), st.floats(-2, 2) | st.just(math.inf)), max_size=30
).map(lambda events: sorted(events, key=lambda e: e[0]))


@given(FEEDBACK, EVENTS, st.integers(0, 30))
def test_replay_is_a_pure_function_of_the_log(s: object, events: list, cut: int) -> None:
    whole = s.given(events)  # type: ignore[attr-defined]
    grown = s.given(events[:cut])  # type: ignore[attr-defined]
    fork = grown
    for event in events[cut:]:
        grown = grown.record(*event)
    for _ in events[cut:]:
        fork = fork.record(200, -2.0)
    assert grown == whole
    assert hash(grown) == hash(whole)
    steps = np.arange(220)
    np.testing.assert_array_equal([grown(int(t)) for t in steps], whole(steps))
    for other in (parse(repr(whole)), from_json(to_json(whole)), pickle.loads(pickle.dumps(grown))):
        assert other == whole
        assert [other(t) for t in (0, 50, 219)] == [whole(t) for t in (0, 50, 219)]


@given(EVENTS)
def test_feedback_joins_and_multiplies_like_any_other(events: list) -> None:
    leaf = plateau(patience=0, factor=0.5)
    s = ((warmup(50) >> leaf) * step(100, 0.1)).given(events)
    own = leaf.given([(t - 50, m) for t, m in events if t >= 50])
    for t in range(0, 250, 7):
        expected = t / 50 if t < 50 else own(t - 50)
        assert s(t) == pytest.approx(expected * 0.1 ** (t // 100), rel=1e-14)


def test_events_reach_the_clock_of_what_reacts() -> None:
    log = [(100, 1.0), (110, 1.0)]
    leaf = plateau(patience=0, factor=0.5)
    assert leaf.stretch(10).given(log)(110) == 0.5
    assert leaf.shift(100).given(log)(109) == 1.0
    assert leaf.shift(100).given(log)(110) == 0.5
    assert leaf.shift(105).given(log)(1_000) == 1.0  # the first event came before its clock began
    assert leaf.take(200).fit(20).given([(10, 1.0), (11, 1.0)])(11) == 0.5
    assert leaf.take(105).given(log)(1_000) == 1.0
    assert (0.5 * leaf + 1.0).clip(0.0, 9.0).given(log)(110) == 1.25
    assert (cosine(10).repeat() * leaf).given(log)(110) == 0.5
    assert not cosine(10).has_feedback
    assert cosine(10).given(log) == cosine(10)
    with pytest.raises(BadValueError, match="restarts its feedback each time"):
        leaf.take(10).repeat().given(log)
    with pytest.raises(BadValueError, match="has no length in steps yet"):
        (cosine() >> leaf.take(5)).given(log)


def test_given_replaces_and_record_adds() -> None:
    s = plateau(patience=0).given([(1, 1.0), (2, 1.0)])
    assert s.given([]) == plateau(patience=0)
    assert s.record(3, 1.0)(3) == pytest.approx(0.01)
    assert s(3) == 0.1  # the old one is as it was


def test_a_log_is_in_order_and_holds_numbers() -> None:
    with pytest.raises(BadValueError, match="step of an event is 4, before the last one at 5"):
        plateau().given([(5, 1.0), (4, 1.0)])
    with pytest.raises(BadTypeError, match="give pairs"):
        plateau().given([5])
    with pytest.raises(BadTypeError, match="give pairs"):
        plateau().given("ab")
    with pytest.raises(BadTypeError, match="a metric is 'x'"):
        plateau().record(5, "x")  # type: ignore[arg-type]
    with pytest.raises(BadTypeError, match="a metric is True"):
        plateau().record(5, True)
    with pytest.raises(BadValueError, match="step of an event is -1"):
        plateau().record(-1, 1.0)
    assert list(EventLog.of([(1, torch.tensor(0.5)), (2, 10**400)])) == [(1, 0.5), (2, None)]


def test_one_overflow_is_no_unbeatable_best() -> None:
    s = plateau(mode="max", patience=1, factor=0.5).given([(1, math.inf), (2, 1.0), (3, 2.0)])
    assert s(3) == 1.0


def test_options_out_of_bounds_are_refused() -> None:
    for wrong, message in (
        ({"factor": 1.5}, "factor is 1.5; it must be at most 1"),
        ({"patience": -1}, "patience is -1"),
        ({"patience": 1.5}, "must be a whole number"),
        ({"mode": "mim"}, "did you mean 'min'"),
        ({"threshold_mode": "abc"}, "unknown threshold_mode"),
        ({"cooldown": -1}, "cooldown is -1"),
        ({"floor": 2}, "floor is 2"),
        ({"eps": -1.0}, "eps is -1.0"),
    ):
        with pytest.raises(BadValueError, match=message):
            plateau(**wrong)  # type: ignore[arg-type]
    with pytest.raises(BadValueError, match=r"beta is 1\.0; it must be below 1"):
        hypergradient(beta=1.0)


def test_hypergradient_control_finds_the_rate_of_a_quadratic() -> None:
    # f(x) = x²/2 converges fastest at rate 1; from 0.05 the agreement of gradients drives it up.
    s, x, before = hypergradient(beta=0.2, high=100.0), 1.0, None
    for t in range(40):
        gradient = x
        if before is not None and gradient:
            s = s.record(t, math.copysign(1.0, gradient * before))
        x -= 0.05 * s(t) * gradient
        before = gradient
    assert s(40) > 10.0
    assert abs(x) < 1e-3


@given(st.integers(1, 900), st.integers(1, 500), st.sampled_from(["linear", "cosine", "sqrt"]))
def test_cooldown_starts_without_a_jump(at: int, length: int, shape: str) -> None:
    s = 0.3 * (warmup(100) >> cosine(900, floor=0.1))
    cooled = s.cooldown(at=at, length=length, floor=0.2, shape=shape)
    assert [cooled(t) for t in range(0, at, 17)] == [s(t) for t in range(0, at, 17)]
    assert cooled(at) == s(at)
    assert cooled(at + length) == pytest.approx(0.2 * s(at), rel=1e-14)
    assert cooled.length == at + length
    assert parse(repr(cooled)) == cooled


@given(st.integers(0, 999), st.integers(1_000, 5_000))
def test_extending_the_horizon_makes_no_jump(at: int, horizon: int) -> None:
    s = warmup(100) >> cosine(900, floor=0.1)
    longer = s.extend(at=at, horizon=horizon)
    assert longer(at) == s(at)
    assert [longer(t) for t in range(0, at, 17)] == [s(t) for t in range(0, at, 17)]
    assert longer.length == horizon
    assert longer(horizon) == s(1_000)
    assert parse(repr(longer)) == longer
    steepest = 0.011  # the warmup's slope; a jump would be larger
    assert all(abs(longer(t + 1) - longer(t)) < steepest for t in range(horizon))


def test_a_plan_changed_often_stays_short() -> None:
    s = 0.1 * (warmup(100) >> cosine(900))
    for i in range(1, 11):
        before, at = s, 150 * i
        s = s.extend(at=at, horizon=2_000 + 100 * i)
        assert s(at) == pytest.approx(before(at), rel=1e-14)
    assert s.length == 3_000
    assert len(repr(s)) < 3_000
    assert parse(repr(s)) == s
    assert repr((warmup(9) >> linear(9)).cooldown(at=9, length=5)) == "warmup(9) >> 1.0 * linear(5)"


def test_changes_of_plan_that_are_impossible_are_refused() -> None:
    assert constant().extend(at=5, horizon=100) == constant()
    assert linear(10).extend(at=5, horizon=10) == linear(10)
    with pytest.raises(BadValueError, match="at is 10; it must be before the old end 10"):
        linear(10).extend(at=10, horizon=20)
    with pytest.raises(BadValueError, match="horizon is '5 epochs'; give it in steps"):
        linear(10).extend(at=1, horizon="5 epochs")
    with pytest.raises(BadValueError, match="has no length in steps yet"):
        cosine().extend(at=1, horizon=5)
    with pytest.raises(BadValueError, match="unknown shape 'cosin'"):
        linear(10).cooldown(at=1, length=5, shape="cosin")
