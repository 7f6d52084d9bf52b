"""Processes that keep parts of the weights (`shard=True`) train as one process does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from etude import optimizers
from etude.distributed.sharding import blocks, refuse_sharding
from etude.errors import BadValueError
from etude.training.train import train
from etude.training.world import SINGLE
from tests.distributed import resuming
from tests.distributed.equalities import CASES, dense, recipe
from tests.distributed.sharding_cases import SHARDED, outcome, with_optimizer
from tests.distributed.test_equal import check_equal, check_same
from tests.distributed.together import together

HERE = "tests.distributed.sharding_cases"
ROOT = Path(__file__).parents[2]


@cache
def alone(name: str) -> dict[str, Any]:
    return outcome(SHARDED[name])


def results(tmp_path_factory: Any, count: int, *functions: str) -> dict[str, list[Any]]:
    names = [f"{HERE}:{name}" for name in functions]
    found = together(tmp_path_factory.mktemp("shard"), count, *names)
    return {name.partition(":")[2]: values for name, values in found.items()}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return results(tmp_path_factory, 2, "equal", "kept", "refused", "every_optimizer")


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    return results(tmp_path_factory, 4, "equal")


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARDED)
def test_two_processes_with_parts_equal_one(pair, name):
    check_equal(pair["equal"][0][name], alone(name))
    check_same([rank[name] for rank in pair["equal"]])


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARDED)
def test_four_processes_with_parts_equal_one(four, name):
    check_equal(four["equal"][0][name], alone(name))
    check_same([rank[name] for rank in four["equal"]])


@pytest.mark.slow
def test_each_process_keeps_half_of_weights_and_moments(pair):
    """A tensor with an odd number of rows leaves the first process one more."""
    (first, moments, whole), (second, others, _) = pair["kept"]
    assert first + second == whole
    assert moments + others == 2 * whole
    assert first <= 0.6 * whole


@pytest.mark.slow
@pytest.mark.parametrize("name", optimizers.ROWS)
def test_every_optimizer_trains_in_parts_or_is_refused(pair, name):
    found = pair["every_optimizer"][0][name]
    why = optimizers.get(name).why_no_shards
    if why:
        assert found["error"] == (
            "BadValueError",
            f"shard: {name} needs whole tensors ({why}): take 'adamw' or 'sgd', or leave shard out",
        )
    else:
        check_equal(found, outcome(with_optimizer(name)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("penalty", "BadValueError", "l2=0.1 is a term of the loss"),
        ("turns", "BadValueError", "parts of the model take turns"),
        ("closure", "BadValueError", "lbfgs needs whole tensors"),
        ("compress", "BadValueError", "exchanges whole gradients"),
        ("slices", "BadValueError", "'0.weight[0:2]', rows of a tensor"),
        ("adaptive", "BadValueError", "compares rows with weights: use clip_norm"),
        ("rewind", "BadValueError", "take 'skip' or 'zclip'"),
        ("probe", "BadValueError", "an observer needs whole weights"),
        ("around", "TaskError", "without calling the model"),
        ("tune", "BadValueError", "tune needs whole weights"),
        ("diagnose", "BadValueError", "diagnose needs whole weights"),
        ("unused", "BadValueError", "leave find_unused out"),
        ("scalar", "BadValueError", "'scale' is a scalar: give it the shape (1,)"),
    ],
)
def test_what_needs_whole_weights_is_refused_in_every_process(pair, name, kind, text):
    for rank in pair["refused"]:
        said = rank[name]["error"]
        assert said[0] == kind, said
        assert text in said[1]


# ---- resuming ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("resume")


@pytest.fixture(scope="module")
def resumed(place, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(resuming.FOLDER, str(place))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            resuming.stopped(SINGLE, place / "alone", *CASES["mlp_adamw_clipped"](), 13)
        return results(tmp_path_factory, 2, "same", "begins", "goes_on")


@pytest.mark.slow
def test_a_sharded_run_goes_on_to_the_bit(resumed):
    for whole, again, losses, steps in resumed["same"]:
        assert steps == 24
        assert losses[0] == losses[1]
        for name, value in whole.items():
            assert torch.equal(again[name], value)


@pytest.mark.slow
def test_one_process_goes_on_with_a_sharded_run_and_the_other_way_round(resumed, place):
    task, made = CASES["mlp_adamw_clipped"]()
    expected = train(task, made).model.state_dict()
    assert resumed["begins"] == [None, None]
    with pytest.warns(UserWarning, match="trained in 2 processes up to update 10"):
        record = train(task, folder=place / "begun", resume=True)
    sharded, steps = resumed["goes_on"][0]
    assert steps == record.cost.steps == made.steps
    for name, value in expected.items():
        torch.testing.assert_close(record.model.state_dict()[name], value, rtol=0, atol=1e-6)
        torch.testing.assert_close(sharded[name], value, rtol=0, atol=1e-6)


# ---- the command ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_saves_the_model_of_one_process(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "etude", "train", "digits-mlp", "--steps", "20", "--seed", "1"]
    for folder, more in (("one", []), ("parts", ["--nproc", "2", "--shard"])):
        done = subprocess.run(
            [*command, *more, "--out", str(tmp_path / folder)],
            capture_output=True, text=True, env=environment, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    notes = json.loads((tmp_path / "parts" / "notes.json").read_text())
    assert notes["world"] == {"processes": 2, "backend": "gloo", "shard": True}
    one, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "parts"))
    assert set(one) == set(parts)
    for name, value in one.items():
        torch.testing.assert_close(parts[name], value, rtol=0, atol=1e-4)


# ---- without processes ---------------------------------------------------------------------------


def test_blocks_are_the_elements_of_lists_of_any_depth():
    inner = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    net = nn.ModuleDict({"a": nn.ModuleList([inner, nn.Linear(2, 2)]), "b": nn.Linear(2, 1)})
    assert list(blocks(net)) == [inner[0], net["a"][1]]


def test_a_refusal_needs_no_processes():
    task, made = dense(), recipe(l1=0.5)
    with pytest.raises(BadValueError, match=r"shard: l1=0\.5 is a term of the loss over whole"):
        refuse_sharding(task, made, task.build())
