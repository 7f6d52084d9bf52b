"""`etude compress`, as a user types it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from etude.compression import load


@pytest.fixture
def run(etude) -> str:
    words = ("--steps", "40", "--batch-size", "64", "--out", "run")
    assert etude("train", "cancer-mlp", *words).code == 0
    return "run"


def test_from_a_run_to_a_smaller_network(etude, run):
    said = etude("compress", run, "--prune", "0.8", "--budget", "0")
    assert said.code == 0, said.err
    assert "smaller" in said.out
    assert "before" in said.out
    assert "<html" in Path("run-prune-0.8/report.html").read_text()
    model = load("run-prune-0.8")
    weights = torch.cat([p.flatten() for p in model.parameters() if p.ndim > 1])
    assert float((weights == 0).float().mean()) == pytest.approx(0.8, abs=0.01)
    again = etude("compress", run, "--prune", "0.8", "--budget", "0")
    assert again.code == 1
    assert "already holds a model or a run" in again.err


def test_json_is_one_document(etude, run):
    said = etude("compress", run, "--structured", "0.5", "--budget", "0", "--out", "x", "--json")
    assert said.code == 0, said.err
    assert said.json["smaller"] > 1
    assert said.json["latency"]["passes"] >= 5
    assert said.json["folder"] == "x"
    assert Path(said.json["report"]).exists()


@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        ((), "no method: give --prune SHARE", 2),
        (("--prune", "1"), "prune=1.0 is out of bounds", 2),
        (("--structured", "-0.5"), "structured=-0.5 is out of bounds", 2),
        (("--int8", "fast"), "unknown int8 mode 'fast'", 2),
        (("--prune", "0.5", "--int8", "dynamic"), "prune and int8 was given", 2),
        (("--prune", "0.5"), "holds no finished run", 1),
    ],
)
def test_errors_are_one_message(etude, words, said, code):
    found = etude("compress", "nowhere", *words)
    assert found.code == code
    assert said in found.err.replace("\n", " ")
    assert "Traceback" not in found.err
    assert not list(Path().iterdir())
