"""Which rates tie."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.record import Evaluation
from etude.tuning.result import tie

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
