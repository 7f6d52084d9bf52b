"""A run goes on in the same number of processes to the bit, in another one up to rounding."""

from __future__ import annotations

import warnings

import pytest
import torch

from etude.training.train import train
from etude.training.world import SINGLE
from tests.distributed import resuming
from tests.distributed.equalities import CASES
from tests.distributed.together import together

pytestmark = pytest.mark.slow
HERE = "tests.distributed.resuming"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("resume")


@pytest.fixture(scope="module")
def found(place, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(resuming.FOLDER, str(place))
        names = [f"{HERE}:{name}" for name in ("same_world", "begins", "tuned", "diagnosed")]
        results = together(tmp_path_factory.mktemp("results"), 2, *names)
    return {name.partition(":")[2]: values for name, values in results.items()}


def check_no_error(values):
    for value in values:
        assert not (isinstance(value, dict) and "error" in value), value["trace"]


def test_the_same_number_of_processes_goes_on_to_the_bit(found):
    check_no_error(found["same_world"])
    for whole, again, losses, steps in found["same_world"]:
        assert steps == 24
        assert losses[0] == losses[1]
        for name, value in whole.items():
            assert torch.equal(again[name], value)


def test_one_process_goes_on_with_a_run_of_two(found, place, monkeypatch):
    check_no_error(found["begins"])
    monkeypatch.setenv(resuming.FOLDER, str(place))
    with pytest.warns(
        UserWarning, match=r"trained in 2 processes up to update 10 and goes on in 1"
    ):
        weights, steps = resuming.goes_on(SINGLE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = train(*CASES["cnn"]())
    assert steps == whole.cost.steps
    for name, value in resuming.weights(whole).items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-6)


def test_every_process_of_a_tuning_takes_the_same_decisions(found):
    check_no_error(found["tuned"])
    (lr, tied, rates, weights), (other_lr, other_tied, other_rates, others) = found["tuned"]
    assert (lr, tied, rates) == (other_lr, other_tied, other_rates)
    for name, value in weights.items():
        assert torch.equal(others[name], value)


def test_a_tuning_in_two_processes_finds_the_rates_of_one(found, place, monkeypatch):
    monkeypatch.setenv(resuming.FOLDER, str(place / "alone"))
    lr, _, rates, _ = resuming.tuned(SINGLE)
    assert found["tuned"][0][2] == pytest.approx(rates)
    assert found["tuned"][0][0] == pytest.approx(lr)


def test_every_process_of_a_diagnosis_gets_the_same_findings(found):
    check_no_error(found["diagnosed"])
    assert found["diagnosed"][0] == found["diagnosed"][1]
