"""Curves: how far a schedule has come, when a curve has turned, and where that points to."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from etude import Recipe, Task, train
from etude.schedules import Clock, constant, cosine, linear, parse, polynomial, warmup
from etude.trials.curve import Curve, Exposure, drop
from etude.tuning.search.overfitting import BEYOND, DEEPEST, foretold, target, turned
from etude.tuning.search.stability import lost, stalls

SHAPES = {
    "constant": constant(),
    "linear": linear(),
    "cosine": cosine(),
    "warmup": warmup("10%") >> cosine(),
    "polynomial": polynomial(power=2.0),
    "flat, then linear": parse("constant(1, length='60%') >> linear()"),
}
shapes = st.sampled_from(sorted(SHAPES))
shares = st.floats(0, 1)


# ---- exposure ----------------------------------------------------------------------------


@given(shapes, st.integers(1, 3000), shares, shares)
def test_exposure_rises_from_0_to_1(name, length, one, two):
    exposure = Exposure.of(SHAPES[name], length)
    low, high = sorted((one, two))
    assert exposure.behind(0.0) == 0.0
    assert exposure.behind(1.0) == 1.0
    assert 0.0 <= exposure.behind(low) <= exposure.behind(high) <= 1.0


@given(shapes, st.integers(1, 2000), st.floats(1e-3, 1e3), shares)
def test_exposure_does_not_depend_on_the_height_of_the_schedule(name, length, factor, share):
    plain, scaled = (Exposure.of(s, length) for s in (SHAPES[name], factor * SHAPES[name]))
    assert scaled.behind(share) == pytest.approx(plain.behind(share), abs=1e-9)


@given(st.integers(1, 5000), shares)
def test_exposure_of_a_constant_is_the_share_itself(length, share):
    assert Exposure.of(constant(), length).behind(share) == pytest.approx(share, abs=1e-9)


def test_a_schedule_without_area_lies_behind_evenly():
    assert Exposure.of(0.0 * constant(), 100).behind(0.25) == pytest.approx(0.25)


@given(shapes, st.integers(10, 900), st.integers(1, 10))
def test_exposure_is_the_sum_of_the_rates_so_far(name, length, tenths):
    shape = SHAPES[name]
    at = length * tenths // 10
    bound = parse(repr(shape)).over(Clock(horizon=length))
    rates = [bound(t) for t in range(length)]
    expected = math.fsum(rates[:at]) / math.fsum(rates)
    assert Exposure.of(shape, length).behind(at / length) == pytest.approx(expected, abs=1e-6)


class Bowl(nn.Module):
    """Two numbers with curvatures 1 and 0.1."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, -2.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.w * torch.tensor([1.0, 0.1]).sqrt() + 0 * x


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("share", [1 / 8, 1 / 4, 1 / 2])
def test_a_rate_has_come_as_far_as_a_lower_one_will_at_its_end(name, share):
    """Gradient flow: with small steps on a quadratic, only the sum of the rates counts."""
    x = torch.zeros(8, 2)
    task = Task(Bowl, (x, x), valid=(x, x), loss=mse_loss)
    recipe = Recipe(
        optimizer={"name": "sgd", "momentum": 0.0},
        schedule=SHAPES[name],
        steps=400,
        batch_size=8,
        evaluations=8,
    )
    fast = train(task, recipe.replace(lr=0.01))
    at = next(e for e in fast.evaluations if e.step == round(400 * share))
    exposure = Exposure.of(recipe.schedule, 400)
    slow = train(task, recipe.replace(lr=0.01 * exposure.behind(share)))
    assert at.loss == pytest.approx(slow.valid_loss, rel=0.02)
    lost = fast.evaluations[0].loss - at.loss
    assert fast.evaluations[0].loss - slow.valid_loss == pytest.approx(lost, rel=0.02)


# ---- the turn ----------------------------------------------------------------------------

LOOKS = tuple(i / 20 for i in range(1, 21))


def curve(lr: float, scores: Any, training: Any = None) -> Curve:
    scores = tuple(map(float, scores))
    falling = tuple(1.0 / (1 + 10 * s) for s in LOOKS[: len(scores)])
    return Curve(lr, LOOKS[: len(scores)], scores, training or falling)


levels = st.floats(-100, 100, allow_nan=False)


@given(st.lists(levels, min_size=1, max_size=20), levels, st.floats(0.05, 1))
def test_a_falling_curve_never_turns(scores, untrained, share):
    falling = curve(0.1, sorted(scores, reverse=True))
    assert turned([falling], share, untrained, 1.0) == []


@given(st.floats(0.1, 0.8), st.floats(0.1, 3), st.floats(1e-3, 1e3), st.floats(-50, 50))
def test_an_overfitting_curve_turns_at_any_scale(bottom, rise, scale, shift):
    """It falls from 1 to 0.2 at `bottom` and rises from there, as training goes on to fall."""
    scores = [shift + scale * _valley(s, bottom, rise) for s in LOOKS]
    untrained = shift + scale
    over = curve(0.1, scores)
    assume(min(scores) < untrained - 0.5 * scale)
    risen = (scores[-1] - min(scores)) / (untrained - min(scores))
    assume(abs(risen - 0.02) > 1e-3)
    far = over.scores[-1] - min(over.scores) > 0.02 * (untrained - over.scores[-1])
    assume(over.scores[-1] < untrained)
    assert (turned([over], 1.0, untrained, 1.0) == [over]) == far
    still = Curve(over.lr, over.shares, over.scores, (1.0,) * 20)
    assert turned([still], 1.0, untrained, 1.0) == []  # noise: training does not fall


def _valley(share: float, bottom: float, rise: float) -> float:
    if share < bottom:
        return 0.2 + 0.8 * (1 - share / bottom)
    return 0.2 + rise * 0.2 * (share - bottom)


@given(st.lists(levels, min_size=1, max_size=20), st.floats(-12, 3), levels, st.floats(1, 3))
def test_the_target_lies_between_the_rate_and_the_deepest(scores, log_lr, untrained, further):
    one = curve(10**log_lr, scores)
    for name in ("constant", "cosine", "warmup"):
        rate = target(one, Exposure.of(SHAPES[name], 500), untrained, further)
        low, high = one.lr * 10**-DEEPEST, one.lr
        assert low * (1 - 1e-9) <= rate <= high * (1 + 1e-9)


@given(st.integers(2, 19))
def test_the_target_is_the_rate_whose_run_ends_at_the_bottom(place):
    one = curve(0.1, [abs(i - place) + 0.0 for i in range(20)])
    exposure = Exposure.of(cosine(), 1000)
    expected = 0.1 * exposure.behind(LOOKS[place])
    assert target(one, exposure, 100.0 * 0 + 25.0) == pytest.approx(max(expected, 1e-3), rel=1e-6)


@given(st.floats(0.1, 0.8), st.floats(0.3, 3), st.floats(0.1, 0.8), st.integers(0, 19))
def test_a_curve_that_turned_is_not_forgotten_as_it_gets_worse(bottom, rise, lead, more):
    """Whatever the score of the curve that is best by then; none comes lower than its lowest."""
    scores = [_valley(s, bottom, rise) for s in LOOKS]
    over, slow = curve(0.1, scores), curve(0.01, [1 - lead * s for s in LOOKS])
    assume(over.scores[-1] - min(scores) > 0.03)
    share = LOOKS[max(more, scores.index(min(scores)) + 1)] if bottom < 0.8 else LOOKS[-1]
    before = turned([over], share, 1.0, 1.0)
    assert turned([over, slow], share, 1.0, 1.0) == before


# ---- the forecast ------------------------------------------------------------------------


@given(st.lists(levels, min_size=5, max_size=5), st.lists(levels, min_size=5, max_size=5), levels)
def test_without_a_faster_sound_curve_the_forecast_is_the_own_score(own, other, untrained):
    exposure = Exposure.of(cosine(), 100)
    fast, slow = curve(0.1, own), curve(0.01, other)
    share = LOOKS[4]
    assert foretold(fast, [fast, slow], share, exposure, untrained) == own[-1]
    broken = curve(1.0, [*own[:4], math.inf])
    assert foretold(fast, [fast, slow, broken], share, exposure, untrained) == own[-1]


@given(st.floats(-3, -0.3), st.floats(0.2, 3), st.floats(0.1, 0.5))
def test_on_gradient_flow_the_forecast_is_the_end(gap, best, share):
    """Where scores depend on the exposure alone, a faster curve tells a slower one's end."""
    exposure = Exposure.of(constant(), 2000)

    def score(lr: float, at: float) -> float:
        return 0.2 + 0.02 * (math.log10(lr * max(at, 1e-9) / (10**gap * 0.3)) - best) ** 2

    evaluated = tuple(i / 200 for i in range(1, int(200 * share) + 1))
    fast, slow = (
        Curve(lr, evaluated, tuple(score(lr, s) for s in evaluated), tuple(-s for s in evaluated))
        for lr in (1.0, share * 0.5)
    )
    ends = [fast.at(evaluated[-1]), slow.at(evaluated[-1])]
    assume(max(ends) - min(ends) <= 0.15 * drop(1.0, ends))
    forecast = foretold(slow, [fast, slow], evaluated[-1], exposure, 1.0)
    expected = max(score(slow.lr, 1.0), min(ends) - BEYOND * drop(1.0, ends))
    assert forecast == pytest.approx(expected, abs=2e-3)


wild = st.one_of(levels, st.sampled_from([math.inf, 0.0, -0.0]))


@given(
    st.lists(st.lists(wild, min_size=1, max_size=6), min_size=1, max_size=4),
    st.one_of(levels, st.just(math.inf)),
    st.sampled_from([0.0, 1e-300, 1.0, 1e6]),
    st.integers(1, 6),
)
def test_nothing_breaks_on_scores_that_are_not_finite(rows, untrained, loss, place):
    """A metric may be undefined at first or in between: its score is infinite there."""
    share = LOOKS[place - 1]
    exposure = Exposure.of(SHAPES["warmup"], 64)
    curves = [curve(10.0**i, row) for i, row in enumerate(rows)]
    sound = [c for c in curves if math.isfinite(c.at(share))]
    found = turned(curves, share, untrained, loss)
    assert all(any(f.lr == c.lr for c in sound) or f.at(share) == math.inf for f in found)
    for one in found:
        rate = target(one, exposure, untrained)
        assert one.lr * 10**-DEEPEST * (1 - 1e-9) <= rate <= one.lr * (1 + 1e-9)
    for one in sound:
        forecast = foretold(one, sound, share, exposure, untrained)
        assert math.isfinite(forecast)
        assert not math.isnan(foretold(one, curves, share, exposure, untrained))
    best = min(sound, key=lambda c: c.at(share), default=None)
    if best is not None:
        assert all(stalls(c, best, untrained) in (True, False) for c in curves)


@given(st.lists(levels, max_size=5), st.one_of(levels, st.just(math.inf)))
def test_the_drop_is_never_zero(scores, untrained):
    assert drop(untrained, [*scores, untrained]) > 0


def test_a_curve_is_read_at_its_looks_alone():
    one = curve(0.1, [3.0, 2.0, 1.0])
    assert one.at(0.1) == 2.0
    assert one.at(0.12) == math.inf
    assert one.at(0.2) == math.inf
    assert one.until(0.1).scores == (3.0, 2.0)
    assert one.until(0.01).scores == ()


# ---- stalling and losing ----------------------------------------------------------------------


@given(st.floats(0.01, 100), st.floats(-5, 5))
def test_a_constant_far_behind_a_learner_stalls_and_a_late_learner_does_not(scale, shift):
    learner = curve(0.1, [shift + scale * (1 - 0.9 * s) for s in LOOKS])
    killed = curve(1.0, [shift + 0.9 * scale] * 20)
    late = curve(1.0, [shift + scale * (1 - 0.9 * s * s) for s in LOOKS])
    assume(0.9 * scale > 1e-3 * abs(shift + scale) * 1.1)
    untrained = shift + scale
    assert stalls(killed, learner, untrained)
    assert not stalls(late, learner, untrained)
    assert not stalls(learner, learner, untrained)


def test_what_nobody_has_learned_stalls_at_no_rate():
    noise = curve(0.1, [1.0 - 5e-4] * 20)
    assert not stalls(curve(1.0, [1.0] * 20), noise, 1.0)
    assert not stalls(curve(1.0, [1.2] * 20), curve(0.1, [1.1] * 20), 1.0)


@given(st.floats(0.01, 100), st.floats(-5, 5), st.integers(1, 19))
def test_only_a_run_that_came_to_its_end_has_lost_what_it_learned(scale, shift, count):
    falling = tuple(1 - 0.9 * s for s in LOOKS)
    learner = curve(0.1, [shift + scale * x for x in falling], falling)
    killed = curve(1.0, [shift + 0.9 * scale] * 20, (0.95,) * 20)
    overfitted = curve(1.0, [shift + 0.9 * scale] * 20, falling)
    assume(0.9 * scale > 1e-3 * abs(shift + scale) * 1.1)
    untrained = shift + scale
    assert lost(killed, learner, untrained)
    assert not lost(overfitted, learner, untrained)  # it has learned its training data
    assert not lost(killed.until(LOOKS[count - 1]), learner, untrained)
    assert not lost(learner, learner, untrained)


# ---- noise -------------------------------------------------------------------------------


@given(st.floats(0.03, 0.5), st.floats(0.03, 0.5))
def test_a_rise_is_a_turn_only_beyond_what_the_curve_came_back_from(first, last):
    """It falls, rises by `first`, falls to its lowest, and rises by `last`."""
    assume(abs(first - last) > 1e-6)
    scores = [1.0, 0.4, 0.4 + first, 0.1, 0.1 + last]
    one = curve(0.1, scores)
    assert (turned([one], 1.0, 1.0, 1.0) == [one]) == (last > first)
