"""What scipy computes for us: Student's quantiles, Kendall's rank correlation."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.measure.sensitivity import Response, t_quantile
from etude.trials.trial import step_at
from etude.tuning.recipes.selection import HORIZONS
from etude.tuning.recipes.selector import held

PRINTED = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""The 97.5% points of Student's t for 1 to 9 degrees of freedom, as tables print them."""


def test_the_quantiles_are_those_of_the_printed_table():
    assert [round(t_quantile(0.975, i + 1), 3) for i in range(9)] == list(PRINTED)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=10))
def test_the_margin_is_half_the_interval_of_the_mean(effects):
    one = Response("*", 3.0, tuple(effects), tuple(effects))
    n = len(effects)
    expected = PRINTED[n - 2] * one.spread / math.sqrt(n)
    assert one.margin == pytest.approx(expected, rel=2e-4, abs=1e-300)


@dataclass
class Entrant:
    """A trial that has been looked at twice."""

    early: float
    late: float
    length: int = 64
    share: float = HORIZONS[1]
    diverged: bool = False

    def score(self, step: int) -> float:
        return self.early if step == step_at(self, HORIZONS[0]) else self.late  # type: ignore[arg-type]


def entered(pairs: list[tuple[float, float]]) -> list[Any]:
    return [Entrant(*pair) for pair in pairs]


@given(st.permutations(range(7)))
def test_without_ties_it_is_the_share_of_pairs_in_order_less_that_out_of_it(order):
    signs = [
        1 if order[i] < order[j] else -1 for i, j in itertools.combinations(range(len(order)), 2)
    ]
    expected = Fraction(sum(signs), len(signs))
    found = held(entered([(float(i), float(late)) for i, late in enumerate(order)]))
    assert found == pytest.approx(float(expected), abs=1e-12)


def test_the_same_order_is_one_and_the_reverse_is_minus_one():
    assert held(entered([(1, 10), (2, 20), (3, 30)])) == pytest.approx(1)
    assert held(entered([(1, 30), (2, 20), (3, 10)])) == pytest.approx(-1)


def test_a_tie_is_neither_for_the_order_nor_against_it():
    pairs = [(1.0, 1.0), (2.0, 1.0), (3.0, 2.0)]
    assert held(entered(pairs)) == pytest.approx(2 / math.sqrt(3 * 2))
    assert held(entered([(b, a) for a, b in pairs])) == held(entered(pairs))


def test_there_is_none_of_two_nor_where_all_score_alike():
    assert held(entered([(1, 2), (2, 3)])) is None
    assert held(entered([(1, 2), (1, 3), (1, 1)])) is None
