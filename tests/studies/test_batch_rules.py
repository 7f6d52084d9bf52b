"""The rules for the batch size: each is found in rates that follow it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.errors import BadValueError
from etude.studies.batch_rules import batch_rules

SIZES = np.array([1, 4, 16, 64, 256, 1024])


@given(c=st.floats(1e-4, 10), power=st.sampled_from([0.0, 0.5, 1.0]))
def test_a_power_law_is_fitted_without_error(c, power):
    name = {0.0: "constant", 0.5: "square root", 1.0: "linear"}[power]
    found = {rule.name: rule for rule in batch_rules(SIZES, c * SIZES**power)}
    assert found[name].error == pytest.approx(0, abs=1e-9)
    assert found[name].lrs == pytest.approx(c * SIZES**power)
    others = [rule.error for rule in found.values() if rule.name not in (name, "noise scale")]
    assert min(others) > 0.3


@given(c=st.floats(1e-4, 10), scale=st.floats(2, 500))
def test_the_noise_scale_is_found_again(c, scale):
    first = batch_rules(SIZES, c / (1 + scale / SIZES))[0]
    assert first.name == "noise scale"
    assert first.noise_scale == pytest.approx(scale, rel=0.05)


def test_the_rule_with_two_parameters_is_never_worse_than_its_limits():
    rates = np.random.default_rng(0).lognormal(size=6)
    found = {rule.name: rule.error for rule in batch_rules(SIZES, rates)}
    assert found["noise scale"] <= min(found["linear"], found["constant"]) + 1e-3


@pytest.mark.parametrize(
    ("sizes", "rates", "message"),
    [
        ([1, 2], [0.1, 0.2], "give at least three different batch sizes"),
        ([1, 2, 2], [0.1, 0.2, 0.2], "give at least three different batch sizes"),
        ([1, 2, 4], [0.1, 0.0, 0.2], "give finite numbers above 0"),
        ([1, 2, 4], [0.1, np.inf, 0.2], "give finite numbers above 0"),
    ],
)
def test_bad_arguments(sizes, rates, message):
    with pytest.raises(BadValueError, match=message):
        batch_rules(sizes, rates)
