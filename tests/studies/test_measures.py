"""The measures of a study, by their definitions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.errors import BadValueError
from etude.studies.measures import optimum, sensitivity, stable_decades

LOSSES = st.lists(st.floats(0.0, 10.0) | st.just(math.inf), min_size=1, max_size=12)


@given(losses=LOSSES, untrained=st.floats(0.1, 10.0))
def test_sensitivity_is_its_definition(losses, untrained):
    found = sensitivity(losses, untrained)
    if not any(map(math.isfinite, losses)):
        assert math.isnan(found)
        return
    bounded = [min(loss, untrained) for loss in losses]
    assert found == pytest.approx(sum(bounded) / len(bounded) - min(bounded), abs=1e-12)
    assert found >= -1e-12


@given(losses=LOSSES, shift=st.floats(-5, 5))
def test_sensitivity_does_not_change_if_all_losses_are_shifted(losses, shift):
    first = sensitivity(losses, 4.0)
    second = sensitivity([loss + shift for loss in losses], 4.0 + shift)
    assert first == pytest.approx(second, abs=1e-9, nan_ok=True)


def test_stable_decades_is_the_longest_run_of_rates_that_train():
    rates = [1e-4, 1e-3, 1e-2, 1e-1, 1.0]
    assert stable_decades(rates, [0.5, 2.0, 0.5, 0.5, 0.5], 1.0) == pytest.approx(2)
    assert stable_decades(rates, [0.5, 2.0, 2.0, 2.0, math.nan], 1.0) == 0
    assert math.isnan(stable_decades(rates, [2.0] * 5, 1.0))
    shuffled = stable_decades(rates[::-1], [0.5, 0.5, 0.5, 2.0, 0.5], 1.0)
    assert shuffled == pytest.approx(2)


def test_the_optimum_has_the_least_mean_and_its_interval_holds_it():
    rng = np.random.default_rng(0)
    rates = np.logspace(-4, 0, 9)
    curve = (np.log10(rates) + 2) ** 2
    losses = curve[:, None] + 0.01 * rng.standard_normal((9, 3))
    found = optimum(rates, losses)
    assert found.lr == pytest.approx(0.01)
    assert found.low <= found.lr <= found.high
    assert not found.at_edge
    wide = optimum(rates, curve[:, None] + 2 * rng.standard_normal((9, 3)))
    assert wide.high / wide.low >= found.high / found.low


def test_one_seed_gives_no_interval_and_order_does_not_matter():
    one = optimum([0.4, 0.1, 0.2], [[3.0], [1.0], [2.0]])
    assert (one.lr, one.low, one.high, one.at_edge) == (0.1, 0.1, 0.1, True)
    assert optimum([0.1, 0.2], [[math.inf], [math.nan]]) is None


def test_a_rate_that_diverged_once_is_not_the_best():
    assert optimum([0.1, 0.2], [[1.0, 1.0], [0.1, math.inf]]).lr == 0.1


def test_bad_arguments():
    with pytest.raises(BadValueError, match=r"losses has the shape \(3,\) for 3 rates"):
        optimum([1, 2, 3], [1, 2, 3])
    with pytest.raises(BadValueError, match="share=1 is out of bounds"):
        optimum([1], [[1.0]], share=1)
