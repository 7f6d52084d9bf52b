"""Two processes with numbers that are hard on them: the right result, or one clear refusal."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from etude.distributed import launch
from etude.training.world import SINGLE
from tests.distributed.numerics import CASES, PAIRS, WAYS, experts_case, mixed_case, trained
from tests.distributed.together import together

ROOT = Path(__file__).parents[2]
HERE = "tests.distributed.numerics"
NAMES = ("lone_samples", "lone_images", "lone_apart", "mixed", "autocast", "experts")

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


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pair", PAIRS)
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


@pytest.mark.parametrize("way", WAYS)
def test_autocast_learns_alike_in_every_process(found, way):
    ranks = [values[way] for values in found["autocast"]]
    check_same(ranks)
    assert ranks[0]["losses"][-1] < ranks[0]["losses"][0]


@pytest.mark.parametrize("way", WAYS)
def test_an_expert_that_a_share_does_not_reach_counts_as_zero(found, way):
    ranks = [values[way] for values in found["experts"]]
    check_same(ranks)
    expected = trained(*experts_case(), SINGLE)
    if way == "none":
        check_close(ranks[0], expected, 1e-6)
    else:
        assert ranks[0]["losses"][-1] == pytest.approx(expected["losses"][-1], abs=0.3)


def test_an_expert_that_a_share_does_not_reach_is_refused_without_being_asked_for(
    capfd, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), str(ROOT)]))
    command = [sys.executable, "-m", "tests.distributed.alone", f"{HERE}:experts_refused"]
    assert launch(command, 2, timeout=15.0, say=lambda text: None) != 0
    text = "".join(capfd.readouterr())
    for part in ("FAILED TaskError", "'experts.1", "find_unused=True"):
        assert part in text, text
    assert len([line for line in text.splitlines() if line.startswith("FAILED")]) == 1, text
