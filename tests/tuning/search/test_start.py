"""Where a search begins: an even grid around the centre that was fitted."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude import Recipe
from etude.optimizers.prior import grid, log10_centre, nice


@given(st.floats(-6, 1), st.integers(1, 9), st.sampled_from([0.4, 0.45]))
def test_a_grid_is_even_and_readable(centre, count, spacing):
    rates = grid(centre, count, spacing)
    assert len(set(rates)) == count
    assert rates == sorted(rates)
    assert all(r == nice(r) for r in rates)
    for one, two in pairwise(rates):
        assert math.log10(two / one) == pytest.approx(spacing, abs=0.01)


@pytest.mark.parametrize(
    ("optimizer", "centre"),
    [
        ({"name": "sgd", "momentum": 0.9}, -0.9),
        ("adamw", -1.6),
        ("rmsprop", -1.7),
        ("adagrad", -0.6),
    ],
)
def test_the_centre_is_the_one_that_was_fitted(optimizer, centre):
    choice = Recipe(optimizer=optimizer).optimizer
    assert log10_centre(choice, 1000, 1000) == pytest.approx(centre)
    assert log10_centre(choice, 10_000, 1000) == pytest.approx(centre - 0.45)
    assert log10_centre(choice, 10**9, 1) == pytest.approx(centre - 0.9)
    assert log10_centre(choice, 1, 10**9) == pytest.approx(centre + 0.675)
    assert log10_centre(choice, 1000, None) == pytest.approx(centre)
