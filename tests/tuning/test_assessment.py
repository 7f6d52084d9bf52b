"""The verdict: ties, confidence, sensitivity, and what may be called unstable."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from etude import Task
from etude.record import Evaluation
from etude.trials.curve import Curve
from etude.trials.score import Goal
from etude.tuning import assessment as verdict
from etude.tuning.assessment import sensitivity
from etude.tuning.comparison import common, learned, ties
from etude.tuning.confidence import LEFT_BEHIND, ahead_of_tried, confidence
from tests.tuning.common import BASE, mlp, quick


class Seen:
    """What a verdict reads of a trial."""

    def __init__(self, lr: float, *parts: tuple[float, ...], diverged: bool = False) -> None:
        self.lr, self.length, self.diverged = lr, 10 * len(parts), diverged
        self._looks = [
            Evaluation(10 * (i + 1), sum(p) / len(p), None, p) for i, p in enumerate(parts)
        ]

    def evaluated(self) -> list[Evaluation]:
        return self._looks

    def last(self) -> Evaluation | None:
        return self._looks[-1] if self._looks else None

    def at(self, step: int) -> Evaluation | None:
        return next((e for e in self._looks if e.step == step), None)

    def curve(self) -> Curve:
        losses = tuple(e.loss for e in self._looks)
        return Curve(self.lr, tuple(e.step / self.length for e in self._looks), losses, losses)


def sure(best: Any, *others: Any, goal: Goal | None = None) -> float | None:
    return ahead_of_tried(best, others, goal or Goal(), math.inf)


slices = st.lists(st.floats(-3, 3), min_size=2, max_size=30)

# ---- confidence --------------------------------------------------------------------------


@given(st.lists(slices, min_size=1, max_size=4), slices)
def test_a_confidence_is_a_share(rows, own):
    best = Seen(0.1, tuple(own))
    others = [
        Seen(0.2 + i, tuple((own[j % len(own)] + r) for j, r in enumerate((row * 30)[: len(own)])))
        for i, row in enumerate(rows)
    ]
    found = sure(best, *others)
    assert found is not None
    assert 0 <= found <= 1


@given(slices, st.floats(0.01, 3))
def test_worse_in_every_slice_is_certain_and_better_in_every_slice_is_impossible(own, shift):
    best = Seen(0.1, tuple(own))
    worse = Seen(0.2, tuple(p + shift for p in own))
    better = Seen(0.3, tuple(p - shift for p in own))
    assert sure(best, worse) == 1.0
    assert sure(best, best, worse) == 1.0
    assert sure(best, worse, better) == 0.0


@given(st.integers(0, 10_000), st.sampled_from([16, 64]))
def test_two_equal_rates_with_noise_are_about_a_coin(seed, count):
    g = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, generator=g).double()
    best = Seen(0.1, (1.0,) * count)
    other = Seen(0.2, tuple((1 + noise - noise.mean()).tolist()))
    found = sure(best, other)
    assert found == pytest.approx(0.5, abs=0.12)


def test_nothing_to_compare_is_no_confidence():
    best = Seen(0.1, (1.0, 2.0))
    assert sure(best) is None
    assert sure(best, best) is None
    assert sure(best, Seen(0.2, (1.0, 2.0), diverged=True)) is None
    assert sure(best, Seen(0.2)) is None
    assert sure(Seen(0.1, (1.0,)), Seen(0.2, (2.0,))) is None  # one slice has no spread


@given(slices, st.floats(0.01, 3), st.integers(0, 100))
def test_a_slice_without_an_answer_is_left_out(own, shift, place):
    nan = math.nan
    put = [*own, 0.5, 0.5]
    put[place % len(put)] = nan
    best = Seen(0.1, tuple(put))
    assert sure(best, Seen(0.2, tuple(p + shift for p in put))) == 1.0
    better = sure(best, Seen(0.2, tuple(p - shift for p in put)))
    assert better is not None
    assert better < 0.02  # a draw may hold that slice alone


def test_two_are_compared_where_both_were_last_looked_at():
    best = Seen(0.1, (1.0, 1.0), (0.5, 0.5), (0.1, 0.1))
    short = Seen(0.2, (0.9, 0.9), (0.6, 0.6))
    short.length = best.length
    pair = common(short, best)
    assert pair is not None
    assert [e.step for e in pair] == [20, 20]
    assert sure(best, short) == pytest.approx(1 - LEFT_BEHIND[1])  # behind in every slice
    assert ties(best, best, Goal(), 2.0)
    assert not ties(short, best, Goal(), 2.0)


class Scored(Seen):
    """A trial without noise in its slices, of a run that ends at 0 from 1 untrained."""

    def __init__(self, lr: float, share: float, trailing: float = 0.0) -> None:
        tenths = range(1, round(10 * share) + 1)
        super().__init__(lr, *((1 - i / 10 + trailing,) * 2 for i in tenths))
        self.length = 100


@given(st.floats(0.02, 1), st.floats(0, 1), st.integers(1, 7))
def test_a_rate_left_at_a_pause_never_makes_the_choice_certain(trailing, more, tenths):
    """However far it trails: rates beside it that were not tried may end better."""
    best = Scored(0.1, 1.0)
    found = [
        confidence(best, [Scored(0.04, tenths / 10, d), best, Scored(0.3, 1.0, d)], Goal(), 1.0)
        for d in (trailing, trailing + more)
    ]
    assert None not in found
    assert 0 < found[1] <= found[0] < 1


@given(st.floats(0, 0.5), st.integers(1, 7), st.integers(1, 7))
def test_the_confidence_is_the_higher_the_further_the_others_were_followed(trailing, one, other):
    best = Scored(0.1, 1.0)
    low, high = sorted((one, other))
    early, late = (
        confidence(
            best, [Scored(0.04, n / 10, trailing), best, Scored(0.3, n / 10, trailing)], Goal(), 1.0
        )
        for n in (low, high)
    )
    assert early <= late


@given(st.floats(0, 0.5), st.integers(1, 10))
def test_a_best_rate_at_an_edge_is_less_sure_than_one_between(trailing, tenths):
    best = Scored(0.1, 1.0)
    below, above = Scored(0.04, tenths / 10, trailing), Scored(0.3, tenths / 10, trailing)
    between = confidence(best, [below, best, above], Goal(), 1.0)
    edge = confidence(best, [below, best], Goal(), 1.0)
    assert edge < between


def test_a_rate_left_ahead_makes_the_choice_unsure():
    best = Scored(0.1, 1.0)
    ahead = confidence(best, [Scored(0.04, 0.2, -0.1), best], Goal(), 1.0)
    behind = confidence(best, [Scored(0.04, 0.2, 0.01), best], Goal(), 1.0)
    assert ahead < 0.5 < behind


@given(st.floats(0.001, 0.5))
def test_two_per_cent_of_the_drop_are_near_enough(trailing):
    """A finished rate that is ahead by less takes nothing from the confidence."""
    best = Scored(0.1, 1.0)
    found = ahead_of_tried(best, [best, Scored(0.3, 1.0, -trailing)], Goal(), 1.0)
    assert found == (0.0 if trailing > 0.02 else 1.0)


# ---- learning, sensitivity ---------------------------------------------------------------


@given(st.floats(-100, 100), st.floats(0, 10))
def test_to_have_learned_is_to_be_below_the_untrained_score(untrained, more):
    assert not learned(untrained + more, untrained)
    assert learned(untrained - 2e-3 * abs(untrained) - 0.1, untrained)
    assert learned(untrained, math.inf)
    assert not learned(math.inf, math.inf)


def flat(lr: float, *scores: float) -> Curve:
    shares = tuple((i + 1) / len(scores) for i in range(len(scores)))
    return Curve(lr, shares, scores, scores)


@given(st.lists(st.floats(-4, 1), min_size=2, max_size=6, unique=True), st.floats(-2, 2))
def test_flat_curves_are_not_sensitive(logs, level):
    curves = [flat(10**x, level + 0.5, level) for x in sorted({round(x, 3) for x in logs})]
    assume(len(curves) > 1)
    assert sensitivity(curves[0], curves, level + 1) == 0.0


@given(st.floats(0.05, 1.5), st.floats(0.2, 5), st.floats(0.1, 100))
def test_a_valley_is_the_more_sensitive_the_narrower(gap, steep, scale):
    def found(width: float) -> float | None:
        best = flat(0.1, 0.5 * scale, 0.0)
        sides = [
            flat(0.1 * 10**x, 0.5 * scale, steep * scale * (gap / width) ** 2) for x in (-gap, gap)
        ]
        return sensitivity(best, [best, *sides], scale)

    narrow, wide = found(0.5), found(1.0)
    assert narrow is not None
    assert wide is not None
    assert narrow > wide > 0
    assert wide == pytest.approx(steep * gap**2 * math.log10(2) / gap)


def test_a_single_rate_says_nothing_of_its_neighbours():
    one = flat(0.1, 0.5, 0.2)
    assert sensitivity(one, [one], 1.0) is None
    assert sensitivity(one, [one, flat(0.2, math.inf, math.inf)], 1.0) is None
    assert sensitivity(one, [one, flat(0.2, 0.6, 0.3)], math.inf) is None


# ---- noise -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_labels_of_pure_noise_make_no_rate_unstable_beside_one_that_learned_as_little(seed):
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(160, 6, generator=g), torch.randint(0, 2, (160,), generator=g)
    of = Task(mlp, (x, y), valid=0.4, loss=cross_entropy)
    best = quick(of, BASE.replace(seed=seed), 3.0)
    stable = [t for t in best.trials if not t.unstable]
    for trial in best.trials:
        if trial.unstable and trial.record.status != "diverged":
            ends = [
                e.loss
                for t in stable
                for e in t.record.evaluations
                if e.step == trial.record.evaluations[-1].step
            ]
            assert trial.record.evaluations[-1].loss > max(ends, default=-math.inf)
    assert best.outcome in ("nothing trains", "no better than a constant")
    if best.outcome == "nothing trains":
        assert best.stable_below is None or any(t.record.status == "diverged" for t in best.trials)


def test_a_clearly_better_metric_is_better_than_a_constant_whatever_a_few_losses_say():
    """One slice with a sample that is far off hides a better loss in its own noise."""
    floor = Evaluation(0, 0.66, 0.6, (0.66,) * 8, (0.6,) * 8)
    own = Evaluation(9, 0.44, 0.95, (0.1,) * 7 + (2.8,), (0.9, 1.0) * 4)
    best = SimpleNamespace(last=lambda: own, floor=floor)
    accuracy = Goal("accuracy", maximize=True)
    assert verdict.like_constant(best, Goal())
    assert not verdict.like_constant(best, Goal(), accuracy)
    blind = replace(own, metric=0.6, metric_parts=(0.5, 0.7) * 4)
    assert verdict.like_constant(SimpleNamespace(last=lambda: blind, floor=floor), Goal(), accuracy)
