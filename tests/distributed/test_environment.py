"""What the environment says of a process, and what is wrong with an incomplete one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from etude.cli.program import app
from etude.distributed.environment import ProcessPlace
from etude.distributed.failures import Failure, is_lost
from etude.distributed.joining import check_devices, join
from etude.errors import BadTypeError, BadValueError, TaskError, WorldError
from etude.training.train import train
from etude.training.world import SINGLE, current
from etude.training.world import given as given_world
from tests.helpers import task

ROOT = Path(__file__).parents[2]
WHOLE = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def test_an_environment_without_rank_and_size_is_one_process():
    assert ProcessPlace.read({}) is None
    assert ProcessPlace.read({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}) is None
    assert ProcessPlace.read({"RANK": "0", "WORLD_SIZE": "1"}) is None


@given(st.integers(2, 64).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))))
def test_a_place_is_read_back_from_its_variables(pair):
    size, rank = pair
    place = ProcessPlace(rank, size, rank % 4, 4, "host", 29_500, True, 3)
    assert ProcessPlace.read(place.variables()) == place


@pytest.mark.parametrize("missing", ["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"])
def test_a_missing_variable_is_named_with_the_fix(missing):
    left = {name: value for name, value in WHOLE.items() if name != missing}
    with pytest.raises(BadValueError, match=rf"{missing} is not set.*torchrun.*--nproc"):
        ProcessPlace.read(left)


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("RANK", "two", r"RANK='two': give a whole number"),
        ("RANK", "-1", r"RANK='-1': give a whole number"),
        ("RANK", "2", r"RANK=2 with WORLD_SIZE=2: ranks go from 0 to 1"),
        ("WORLD_SIZE", "0", r"WORLD_SIZE='0': give a whole number of at least 1"),
        ("MASTER_PORT", "70000", r"MASTER_PORT=70000: a port is at most 65535"),
        ("MASTER_PORT", "http", r"MASTER_PORT='http': give a whole number"),
    ],
)
def test_a_wrong_variable_is_named(name, value, match):
    with pytest.raises(BadValueError, match=match):
        ProcessPlace.read({**WHOLE, name: value})


def test_one_process_joins_nobody(monkeypatch):
    for name in WHOLE:
        monkeypatch.delenv(name, raising=False)
    assert join() is SINGLE
    assert current() is SINGLE
    with join() as world:
        assert world.size == 1


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_limit_must_be_positive(seconds):
    with pytest.raises(BadValueError, match=r"timeout=.*above 0"):
        join(timeout=seconds)


def test_a_wrong_time_limit_in_the_environment(monkeypatch):
    monkeypatch.setenv("ETUDE_WORLD_TIMEOUT", "soon")
    with pytest.raises(BadValueError, match="ETUDE_WORLD_TIMEOUT='soon'"):
        join()


def test_a_taken_port_is_named(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for name, value in {**WHOLE, "RANK": "0", "MASTER_PORT": str(port)}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(WorldError, match=rf"MASTER_PORT={port}: the port is taken.*another"):
            join(timeout=5)


def test_a_process_that_does_not_come_is_named(monkeypatch):
    from etude.distributed.joining import free_port

    for name, value in {**WHOLE, "RANK": "0", "WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    with pytest.raises(
        WorldError, match=r"1 of 3 processes came within 0\.5 s; missing: RANK 1, 2"
    ):
        join(timeout=0.5)


def test_nobody_at_the_address(monkeypatch):
    from etude.distributed.joining import free_port

    for name, value in {**WHOLE, "MASTER_PORT": str(free_port())}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(WorldError, match=r"process 1 of 2 reached nobody within 1 s"):
        join(timeout=1)


@pytest.mark.parametrize(
    ("device", "devices", "count", "match"),
    [
        (None, ["cpu"], 2, r"devices='cpu' has 1 for 2 processes"),
        (None, ["cpu", "cuda:7"], 2, r"devices='cpu,cuda:7' cannot be used"),
        (None, ["0", "1"], 2, r"devices='0,1' cannot be used"),
        ("warp", None, 2, r"device='warp' cannot be used"),
        ("cuda", None, 2, r"device='cuda' cannot be used"),
    ],
)
def test_a_device_that_is_not_there(device, devices, count, match):
    with pytest.raises(BadValueError, match=match):
        check_devices(device, devices, count)
    check_devices("cpu", None, count)
    check_devices(None, ["cpu"] * count, count)


def test_a_world_must_be_a_world():
    with pytest.raises(BadTypeError, match=r"world is 2: give the result of etude\.distributed"):
        train(task(), world=2)
    assert given_world(None) is SINGLE


def test_failures_keep_their_class():
    error = Failure(3, "TaskError", "the data is bad").error(4)
    assert type(error) is TaskError
    assert str(error) == "process 3 of 4 failed: the data is bad"
    assert str(Failure(1, "KeyError", "'x'").error(2)) == "process 1 of 2: KeyError: 'x'"
    assert str(Failure(1, "", "was killed by SIGKILL").error(2)).endswith("killed by SIGKILL")
    inner = TaskError("the backward pass failed")
    inner.__cause__ = RuntimeError("[x/gloo/transport/tcp/pair.cc:1] Connection closed by peer")
    assert is_lost(inner)
    assert not is_lost(TaskError("the loss failed"))


@pytest.mark.parametrize(
    ("arguments", "variables", "match"),
    [
        (["train", "digits-mlp"], {"RANK": "0"}, "WORLD_SIZE is not set"),
        (["train", "digits-mlp"], {"WORLD_SIZE": "2"}, "RANK is not set"),
        (["train", "digits-mlp", "--nproc", "2"], WHOLE | {"RANK": "0"}, "leave --nproc out"),
        (["train", "digits-mlp", "--devices", "0,1"], {}, "--devices is for several processes"),
        (["train", "digits-mlp", "--nproc", "2", "--devices", "0,1"], {}, "devices='0,1' cannot"),
        (["train", "digits-mlp", "--nproc", "0"], {}, "nproc=0"),
        (["grid", "digits-mlp"], WHOLE | {"RANK": "0"}, "`etude grid` trains in one process"),
    ],
)
def test_the_program_says_what_is_wrong(arguments, variables, match):
    said = CliRunner(env=variables).invoke(app, arguments, catch_exceptions=False)
    assert said.exit_code == 2
    assert match in " ".join(said.output.split()), said.output
    assert "Traceback" not in said.output


@pytest.mark.slow
def test_another_process_than_the_first_is_silent():
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **WHOLE}
    done = subprocess.run(
        [sys.executable, "-m", "etude", "grid", "digits-mlp"],
        capture_output=True, text=True, timeout=300, env=environment, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")
