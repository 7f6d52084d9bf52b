"""Two processes with numbers that are hard on them: the right result, or one clear refusal."""

from __future__ import annotations

import pytest
import torch

from etude.training.world import SINGLE
from tests.distributed.numerics import (
    CASES,
    FEW,
    PAIRED,
    autocast_case,
    experts_case,
    mixed_case,
    trained,
)
from tests.distributed.together import together

HERE = "tests.distributed.numerics"
NAMES = (
    "lone_samples",
    "lone_images",
    "lone_apart",
    "mixed",
    "autocast",
    "experts",
    "experts_unasked",
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("numerics")
    results = together(folder, 2, *(f"{HERE}:{name}" for name in NAMES))
    return {name.partition(":")[2]: values for name, values in results.items()}


def check_close(found: dict, expected: dict, tolerance: float) -> None:
    assert found["status"] == expected["status"] == "finished"
    for name, value in expected["weights"].items():
        torch.testing.assert_close(found["weights"][name], value, rtol=0, atol=tolerance)
    assert found["losses"] == pytest.approx(expected["losses"], abs=tolerance)
    assert found["valid"] == pytest.approx(expected["valid"], abs=tolerance)


def check_same(ranks: list[dict]) -> None:
    first, second = ranks
    assert (first["losses"], first["valid"]) == (second["losses"], second["valid"])
    for name, value in first["weights"].items():
        assert torch.equal(second["weights"][name], value), name


@pytest.mark.parametrize("name", CASES)
def test_one_sample_for_each_process_is_normalised_over_the_whole_batch(found, name):
    assert "error" not in found[name][0], found[name][0]["trace"]
    check_close(found[name][0], trained(*CASES[name](), SINGLE), 1e-6)
    check_same(found[name])


def test_between_two_exchanges_a_lone_sample_cannot_be_normalised(found):
    first, second = found["lone_apart"]
    assert first is not None
    assert first == second
    assert first[0] == "TaskError"
    assert "its own share of a batch" in first[1]
    assert "more than 1 value per channel there: give a larger batch_size" in first[1]


@pytest.mark.parametrize(("pair", "way"), PAIRED)
def test_weights_of_several_types_learn_alike_in_every_process(found, pair, way):
    ranks = [values[pair, way] for values in found["mixed"]]
    check_same(ranks)
    losses = ranks[0]["losses"]
    assert ranks[0]["status"] == "finished"
    assert losses[-1] < losses[0]
    if way in ("none", "fp16", "bf16"):
        task, made = mixed_case(pair, way)
        expected = trained(task, made.replace(compress=None), SINGLE)
        assert losses == pytest.approx(expected["losses"], abs=0.05)


def test_autocast_learns_alike_in_every_process(found):
    check_same(found["autocast"])
    expected = trained(*autocast_case(), SINGLE)
    assert found["autocast"][0]["losses"] == pytest.approx(expected["losses"], abs=0.05)


@pytest.mark.parametrize("way", FEW)
def test_an_expert_that_a_share_does_not_reach_counts_as_zero(found, way):
    assert "error" not in found["experts"][0], found["experts"][0]["trace"]
    ranks = [values[way] for values in found["experts"]]
    check_same(ranks)
    expected = trained(*experts_case(), SINGLE)
    if way == "none":
        check_close(ranks[0], expected, 1e-6)
    else:
        assert ranks[0]["losses"][-1] == pytest.approx(expected["losses"][-1], abs=0.3)


def test_an_expert_that_no_share_reaches_at_first_may_be_reached_later(found):
    check_same(found["experts_unasked"])
    check_close(found["experts_unasked"][0], trained(*experts_case(), SINGLE), 1e-6)
