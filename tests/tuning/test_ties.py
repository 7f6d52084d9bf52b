"""Which rates tie."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.record import Evaluation
from etude.trials.curve import Curve
from etude.trials.score import Goal
from etude.tuning.assessment import half_way
from etude.tuning.comparison import ties
from etude.tuning.pause_error import pause_error
from etude.tuning.result import tie
from etude.tuning.search.ladder import SPACING
from etude.tuning.untried import reach

losses = st.lists(st.floats(-10, 10), min_size=1, max_size=20)


def evaluation(parts: list[float]) -> Evaluation:
    return Evaluation(9, math.fsum(parts) / len(parts), None, tuple(parts))


@given(losses, st.floats(0, 10))
def test_a_rate_ties_with_itself(parts, drop):
    assert tie(evaluation(parts), evaluation(parts), drop)


@given(losses, st.floats(0, 10), st.floats(0, 5), st.floats(0, 5))
def test_the_better_ties_where_the_worse_does(parts, drop, shift, more):
    best = evaluation(parts)
    near, far = (evaluation([p + s for p in parts]) for s in (shift, shift + more))
    assert tie(near, best, drop) or not tie(far, best, drop)


@given(losses, st.floats(0.01, 10))
def test_a_hundredth_of_the_drop_is_a_tie_and_more_of_the_same_everywhere_is_none(parts, drop):
    best = evaluation(parts)
    assert tie(evaluation([p + 0.009 * drop for p in parts]), best, drop)
    assert not tie(evaluation([p + 0.012 * drop + 1e-6 for p in parts]), best, drop)


@given(st.integers(1, 20), st.floats(0.01, 3))
def test_two_standard_errors_are_the_bound(pairs, spread):
    """Differences m ± s in equal number: their standard error is s / sqrt(n - 1)."""
    error = spread / math.sqrt(2 * pairs - 1)
    best = evaluation([0.0] * (2 * pairs))
    for times, tied in ((1.99, True), (2.01, False)):
        mean = times * error
        other = evaluation([mean + spread, mean - spread] * pairs)
        assert tie(other, best, 0.0) == tied


@given(st.lists(st.floats(0, 1), min_size=4, max_size=16), st.integers(0, 3))
def test_the_order_of_the_slices_does_not_matter(parts, shift):
    other = [p + 0.1 * (i % 3) for i, p in enumerate(parts)]
    turned = parts[shift:] + parts[:shift], other[shift:] + other[:shift]
    assert tie(evaluation(other), evaluation(parts), 1.0) == tie(
        evaluation(turned[1]), evaluation(turned[0]), 1.0
    )


@pytest.mark.parametrize("loss", [math.inf, math.nan])
def test_what_broke_ties_with_nothing(loss):
    assert not tie(Evaluation(9, loss, None, (loss, 1.0)), evaluation([1.0, 1.0]), 1.0)


@given(st.integers(1, 20), st.floats(0.01, 3), st.floats(0.01, 3))
def test_the_error_of_a_pause_adds_to_that_of_the_slices_as_errors_do(pairs, spread, error):
    whole = math.hypot(spread / math.sqrt(2 * pairs - 1), error)
    best = evaluation([0.0] * (2 * pairs))
    for times, tied in ((1.99, True), (2.01, False)):
        mean = times * whole
        other = evaluation([mean + spread, mean - spread] * pairs)
        assert tie(other, best, 0.0, error=error) == tied


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_later_pause_is_no_less_sure(one, other):
    early, late = sorted((one, other))
    assert pause_error(early) >= pause_error(late) >= pause_error(1.0) == 0.0


# ---- the range -----------------------------------------------------------------------------------

logs = st.lists(st.integers(-60, 20), min_size=2, max_size=8, unique=True).map(sorted)


@given(logs, st.tuples(st.floats(0.1, 1), st.floats(0.1, 1)), st.data())
def test_a_range_reaches_half_way_to_the_next_rate_on_each_side(places, beyond, data):
    found = [10 ** (n / 10) for n in places]
    low = data.draw(st.integers(0, len(found) - 1))
    high = data.draw(st.integers(low, len(found) - 1))
    below, above = half_way(found, low, high, beyond)
    assert below < found[low] <= found[high] < above
    if low:
        assert math.log(below / found[low - 1]) == pytest.approx(
            math.log(found[low] / below), abs=0.02
        )
    else:
        assert math.log10(found[0] / below) == pytest.approx(beyond[0], abs=0.01)
    if high < len(found) - 1:
        assert math.log(above / found[high]) == pytest.approx(
            math.log(found[high + 1] / above), abs=0.02
        )
    else:
        assert math.log10(above / found[-1]) == pytest.approx(beyond[1], abs=0.01)


def test_a_single_rate_has_no_range():
    assert half_way([0.1], 0, 0, (0.2, 0.2)) == (0.1, 0.1)


class Seen:
    """A trial as an assessment reads it: scores after tenths of a run of 100 updates."""

    floor = None

    def __init__(self, lr: float, *scores: float, told: bool = True, tenths: int = 1) -> None:
        self.lr, self.length, self.diverged = lr, 100, False
        self.looks = [evaluation_at(10 * (i + tenths), s) for i, s in enumerate(scores)]
        self.told = told

    def evaluated(self) -> list[Evaluation]:
        return self.looks

    def last(self) -> Evaluation | None:
        return self.looks[-1] if self.looks else None

    def at(self, step: int) -> Evaluation | None:
        return next((e for e in self.looks if e.step == step), None)

    def curve(self) -> Curve:
        scores = tuple(e.loss for e in self.looks)
        shares = tuple(e.step / self.length for e in self.looks)
        return Curve(self.lr, shares, scores, scores, (self.told,) * len(scores))


def evaluation_at(step: int, loss: float) -> Evaluation:
    return Evaluation(step, loss, None, (loss, loss))


DOWN = [1.0 - 0.1 * i for i in range(1, 11)]
"""From 1.0 untrained to 0.0 at the end."""


@given(st.integers(1, 7), st.floats(1e-3, 1))
def test_a_rate_left_at_a_pause_may_tie_within_two_of_its_errors(tenths, lr):
    best = Seen(0.1, *DOWN)
    allowed = max(0.01, 2 * pause_error(tenths / 10))
    for times, expected in ((0.98, True), (1.02, False)):
        behind = [s + times * allowed for s in DOWN[:tenths]]
        assert ties(Seen(lr, *behind), best, Goal(), 1.0) == expected


@given(st.integers(1, 10), st.integers(1, 10), st.sampled_from([-1, 1]))
def test_an_open_range_goes_the_further_the_earlier_its_last_rate_was_left(one, other, side):
    early, late = sorted((one, other))
    best = Seen(0.1, *DOWN)
    reaches = []
    for tenths in (early, late):
        tried = Seen(0.1 * 3**side, *DOWN[:tenths])
        trials = sorted([best, tried], key=lambda t: t.lr)
        assert reach(trials, best, -side) >= reach(trials, best, side)  # there the best is last
        reaches.append((reach(trials, best, side), reach(trials, best, -side)))
    assert all(e >= f for e, f in zip(*reaches, strict=True))
    assert (reaches[1][0] == SPACING / 2) == (late >= 7.5)


def test_where_no_rate_beats_a_constant_yet_nothing_is_excluded():
    best, other = Seen(0.1, *DOWN, told=False), Seen(0.2, 30.0, told=False)
    assert ties(other, best, Goal(), 1.0)
    best.told = True
    assert not ties(other, best, Goal(), 1.0)
