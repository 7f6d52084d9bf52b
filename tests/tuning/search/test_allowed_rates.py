"""A search tries no rate that is not allowed, and says where the best lies at a bound."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from etude.errors import BadTypeError, BadValueError
from etude.optimizers.prior import grid
from etude.tuning.search.allowed_rates import APART, EVERY_RATE, AllowedRates
from etude.tuning.search.ladder import ladder_for
from etude.tuning.search.search import Search
from tests.tuning.search.test_search import (
    DEGENERATE,
    Formula,
    breaking,
    budgets,
    limits,
    optima,
    valley,
    widths,
)

exponents = st.floats(-6, 2)
ranges = st.tuples(exponents, st.floats(0.06, 4)).map(
    lambda pair: AllowedRates.of((10 ** pair[0], 10 ** (pair[0] + pair[1])))
)
lists = st.lists(exponents, min_size=2, max_size=12, unique_by=lambda x: round(x, 3)).map(
    lambda found: AllowedRates.of(lrs=[10**x for x in found])
)
anything = st.one_of(ranges, lists, st.just(EVERY_RATE))


def is_allowed(allowed: AllowedRates, lr: float) -> bool:
    return lr in allowed.listed if allowed.listed else allowed.low <= lr <= allowed.high


def search(of: Formula, allowed: AllowedRates, centre: float = 0.0, final: bool = True):
    found = Search(of, ladder_for(of.left), centre, final=final, allowed=allowed)
    return found, found.run()


@given(anything, budgets, optima, widths, limits, st.floats(-4, 4))
def test_it_tries_allowed_rates_alone_and_finishes_the_best(
    allowed, budget, optimum, width, limit, centre
):
    of = Formula(budget, valley(optimum, width), end=breaking(optimum + limit))
    _, best = search(of, allowed, centre)
    assert of.left >= -1e-6
    assert all(is_allowed(allowed, p.lr) for p in of.trials())
    sound = [p for p in of.trials() if not p.diverged]
    if sound:
        finished = [p for p in sound if p.share >= 1]
        assert best.curve().at(1.0) == min(p.curve().at(1.0) for p in finished)


@given(ranges, st.floats(3, 30), optima, widths)
def test_it_reaches_the_bound_where_the_optimum_lies_beyond(allowed, budget, optimum, width):
    """The nearer a rate is to the optimum, the better it is: so the bound is the best."""
    outside = optimum < math.log10(allowed.low) or optimum > math.log10(allowed.high)
    assume(outside)
    of = Formula(budget, valley(optimum, width))
    _, best = search(of, allowed)
    nearest = allowed.low if optimum < math.log10(allowed.low) else allowed.high
    assert abs(math.log10(best.lr / nearest)) <= 0.4 + APART
    if math.log10(allowed.high / allowed.low) < 1.5:
        assert allowed.bound_at(best.lr) == nearest


@given(lists, st.floats(-3, 3), widths)
def test_with_budget_enough_every_rate_of_a_list_is_known(allowed, optimum, width):
    """And the best of them is the answer."""
    assume(len(allowed.listed) <= 6)
    of = Formula(30.0, valley(optimum, width))
    _, best = search(of, allowed)
    scores = {lr: valley(optimum, width)(math.log10(lr), 1.0) for lr in allowed.listed}
    apart = [b / a for a, b in zip(allowed.listed, allowed.listed[1:], strict=False)]
    assume(min(apart) > 10 ** (2 * APART))
    assert scores[best.lr] == min(scores.values())


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("budget", [1.2, 1.5, 3.0, 10.0])
@pytest.mark.parametrize("final", [True, False])
@pytest.mark.parametrize(
    "allowed", [AllowedRates.of((1e-3, 0.1)), AllowedRates.of(lrs=[0.01, 0.02, 3.0])]
)
def test_it_ends_whatever_the_field(name, budget, final, allowed):
    of = DEGENERATE[name](budget)
    _, best = search(of, allowed, final=final)
    assert best in of.trials()
    assert of.left >= -1e-6
    assert all(is_allowed(allowed, p.lr) for p in of.trials())


@given(exponents, st.integers(1, 9), st.floats(0.05, 1))
def test_without_bounds_nothing_changes(centre, count, spacing):
    assert EVERY_RATE.start(centre, count, spacing) == grid(centre, count, spacing)
    assert EVERY_RATE.nearest(10**centre, above=10**centre) == 10**centre
    assert EVERY_RATE.bound_at(10**centre) is None
    assert EVERY_RATE.within(0.01, 0.1) == (0.01, 0.1)


@given(st.one_of(ranges, lists), exponents, st.integers(1, 9))
def test_it_begins_with_different_allowed_rates_in_order(allowed, centre, count):
    rates = allowed.start(centre, count, 0.4)
    assert rates == sorted(set(rates))
    assert 1 <= len(rates) <= count
    assert all(is_allowed(allowed, lr) for lr in rates)
    if count > 1:
        assert len(rates) > 1


@given(st.one_of(ranges, lists), exponents, exponents, exponents)
def test_what_is_proposed_is_allowed_and_not_known(allowed, wanted, one, other):
    above, below = sorted((10**one, 10**other))
    found = allowed.nearest(10**wanted, above=above, below=below)
    if found is not None:
        assert is_allowed(allowed, found)
        assert above < found < below
        assert allowed.holds_between(above, below)
    assert is_allowed(allowed, allowed.rounded(allowed.nearest(10**wanted)))


@given(st.one_of(ranges, lists))
def test_it_reads_back_what_it_writes(allowed):
    assert AllowedRates.of(**allowed.plain()) == allowed
    assert allowed.bound_at(allowed.low) == allowed.low
    assert allowed.bound_at(allowed.high) == allowed.high


@pytest.mark.parametrize("given_", [np.array([0.01, 0.1]), (x for x in (0.1, 0.01)), [0.01, 0.1]])
def test_any_iterable_of_numbers_is_taken(given_):
    assert AllowedRates.of(given_) == AllowedRates(0.01, 0.1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"lr_range": (0.1, 0.2), "lrs": [0.1, 0.2]}, BadValueError, "give one of them"),
        ({"lr_range": (0.1, 0.1)}, BadValueError, "lr_range has 0.1 twice"),
        ({"lr_range": (0.1, 0.101)}, BadValueError, "at least 1.12 times as high"),
        ({"lr_range": (0.1,)}, BadValueError, "give the lowest and the highest rate"),
        ({"lr_range": (0.1, 0.2, 0.3)}, BadValueError, "give the lowest and the highest rate"),
        ({"lr_range": (0.0, 0.1)}, BadValueError, r"lr_range\[0\]=0.0 is out of bounds"),
        ({"lr_range": (0.1, math.inf)}, BadValueError, r"lr_range\[1\]=inf is out of bounds"),
        ({"lr_range": 0.1}, BadTypeError, "give the lowest and the highest rate"),
        ({"lr_range": "0.1"}, BadTypeError, "give the lowest and the highest rate"),
        ({"lr_range": ("a", "b")}, BadTypeError, r"lr_range\[0\]='a' is not a number"),
        ({"lrs": [0.1]}, BadValueError, "lrs holds 1 of them: give 2 to 1,000 rates"),
        ({"lrs": []}, BadValueError, "lrs is empty: give at least one rate"),
        ({"lrs": [0.1, -1]}, BadValueError, r"lrs\[1\]=-1.0 is out of bounds"),
        ({"lrs": [True, 0.1]}, BadTypeError, r"lrs\[0\]=True is not a number"),
    ],
)
def test_what_is_no_range_and_no_list_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        AllowedRates.of(**arguments)
