"""A process that is killed in the middle of a run costs no update: the same weights at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
OPTIONS = ("digits-mlp", "--nproc", "2", "--steps", "200", "--seed", "1")

pytestmark = pytest.mark.slow


def begin(folder: Path, *options: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "etude", "train", *OPTIONS, *options, "--out", str(folder)],
        env=environment,
        cwd=folder.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def weights(folder: Path) -> torch.Tensor:
    found = load_file(folder / "model.safetensors")
    return torch.cat([found[name].flatten() for name in sorted(found)])


def checkpoints(folder: Path) -> int:
    return len(list((folder / "checkpoints").glob("*"))) if folder.exists() else 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The weights of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("killed") / "whole"
    undisturbed = begin(folder)
    said, _ = undisturbed.communicate(timeout=300)
    assert undisturbed.returncode == 0, said
    return weights(folder)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_is_started_again_to_the_same_weights(tmp_path, whole, rank):
    run = begin(tmp_path / "killed", "--restarts", "1")
    while checkpoints(tmp_path / "killed") < 2 and run.poll() is None:
        time.sleep(0.05)
    trainers = sorted(psutil.Process(run.pid).children(), key=lambda one: one.pid)
    assert len(trainers) == 2
    trainers[rank].send_signal(signal.SIGKILL)
    said, _ = run.communicate(timeout=300)
    assert run.returncode == 0, said
    assert torch.equal(weights(tmp_path / "killed"), whole)
    assert not [one for one in trainers if one.is_running()]


def test_without_restarts_a_killed_process_ends_the_run_with_one_message(tmp_path):
    run = begin(tmp_path / "run")
    while checkpoints(tmp_path / "run") < 2 and run.poll() is None:
        time.sleep(0.05)
    trainers = psutil.Process(run.pid).children()
    trainers[-1].send_signal(signal.SIGKILL)
    said, _ = run.communicate(timeout=300)
    assert run.returncode != 0
    assert "SIGKILL" in said
    assert not [one for one in trainers if one.is_running()]
