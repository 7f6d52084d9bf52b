"""Real processes: a recipe's `compress` through `train`, `tune`, a checkpoint, and refusals."""

from __future__ import annotations

import pytest
import torch

from tests.distributed.exchange.in_world import METHODS
from tests.distributed.together import together

pytestmark = pytest.mark.slow
CASES = ("resumed", "refused", "normalised", "overflowed", "tuned")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    names = [f"tests.distributed.exchange.in_world:{case}" for case in CASES]
    ranks = together(tmp_path_factory.mktemp("exchange"), 2, *names)
    for values in ranks.values():
        for value in values:
            assert not (isinstance(value, dict) and "error" in value), value["trace"]
    return dict(zip(CASES, ranks.values(), strict=True))


@pytest.mark.parametrize("method", [*METHODS, "local-sgd(period=4) clipped"])
def test_a_broken_run_goes_on_from_its_checkpoint_to_the_same_bits(found, method):
    first, second = (rank[method] for rank in found["resumed"])
    assert torch.equal(first["whole"], second["whole"])
    assert torch.equal(first["again"], first["whole"])
    assert torch.equal(second["again"], second["whole"])
    assert first["evaluations"] == second["evaluations"]
    notes = first["notes"]
    assert notes["compress"].startswith(method.partition("(")[0])
    assert notes["bytes_sent"] == first["notes_again"]["bytes_sent"] > 0


def test_what_cannot_be_exchanged_is_refused_in_every_process_with_the_fix(found):
    first, second = found["refused"]
    assert first == second
    for said, expected in zip(
        first,
        (
            "lbfgs computes several gradients in one update",
            "early_stopping=2 keeps the best weights",
            "spikes=skip() undoes an update",
            "the parameter 'scale' has the shape ()",
            "0 has sparse gradients",
        ),
        strict=True,
    ):
        assert expected in said


def test_an_overflow_in_one_process_is_one_of_all(found):
    for method, first in found["overflowed"][0].items():
        second = found["overflowed"][1][method]
        assert first["status"] == "finished", method
        assert torch.isfinite(first["weights"]).all(), method
        assert torch.equal(first["weights"], second["weights"]), method
        assert first["overflows"] == second["overflows"] > 0, method


def test_batch_statistics_are_brought_together_with_the_weights(found):
    first, second = found["normalised"]
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    assert not torch.equal(first["1.running_mean"], torch.zeros(40))


def test_the_rate_is_tuned_together_with_the_compression(found):
    first, second = found["tuned"]
    assert (first["lr"], first["compress"]) == (second["lr"], second["compress"])
    assert torch.equal(first["weights"], second["weights"])
    assert first["tried"] == second["tried"]
    by_method = {method for method, _ in first["tried"]}
    assert by_method == {"none", "topk(ratio=0.1)"}
    assert len({lr for _, lr in first["tried"]}) > 1
