"""Ctrl-C, SIGTERM and SIGKILL: what was computed is kept, and going on gives the same bytes."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from etude import Record
from etude.cli.program import app

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

TRAIN = ["train", "digits-mlp", "--steps", "600", "--set", "clip_norm=1.0"]
TUNE = ["tune", "digits-mlp", "--steps", "240", "--budget", "1.5"]
PATIENCE = 300.0
"""Seconds after which a process that should have come somewhere has not."""


def start(*words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "etude", *words]
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def run(*words: str) -> str:
    """Run a command to its end in this process, and return what it prints."""
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def wait(process: subprocess.Popen[str], until: Callable[[], bool]) -> None:
    """Wait for a sign in the files; fail if the process ends or dawdles before it."""
    end = time.monotonic() + PATIENCE
    while not until():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "the process never came so far"
        time.sleep(0.002)


def checkpoints(folder: Path) -> int:
    """The step of the newest checkpoint anywhere in a run folder, 0 where there is none."""
    steps = [int(p.stem.removeprefix("step-")) for p in folder.rglob("checkpoints/step-*.json")]
    return max(steps, default=0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("signals") / "whole"
    run(*TRAIN, "--out", str(folder))
    return folder


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("signals") / "tuned"
    return folder, findings(run(*TUNE, "--json", "--out", str(folder)))


def findings(text: str) -> dict[str, Any]:
    """What a tuning says, but for where it is kept and how long it took.

    The watch reads more or fewer updates by the time that they take: of the health section, what
    was found is compared.
    """
    said = json.loads(text)
    said["health"] = said["health"]["healthy"], said["health"]["findings"]
    return {
        k: v for k, v in said.items() if k not in ("folder", "report") and not k.endswith("seconds")
    }


def equal_runs(one: Path, two: Path) -> bool:
    """Compare all that a run leaves behind, but for the seconds."""
    a, b = Record.load(one), Record.load(two)
    assert a.evaluations == b.evaluations
    assert {n: s.tolist() for n, s in a.series.items()} == {
        n: s.tolist() for n, s in b.series.items()
    }
    assert (a.status, a.reason, a.cost.steps) == (b.status, b.reason, b.cost.steps)
    model = "model.safetensors"
    return (one / model).read_bytes() == (two / model).read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_a_polite_signal_saves_and_says_how_to_go_on(tmp_path, whole, number):
    folder = tmp_path / "a run with spaces"
    process = start(*TRAIN, "--out", str(folder))
    wait(process, lambda: checkpoints(folder) >= 120)
    process.send_signal(number)
    code, out, err = finish(process)
    assert code == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert f"stopped by {number.name} after update " in err
    assert not (folder / "model.safetensors").exists()
    kept = Record.load(folder)
    assert kept.status == "stopped"
    assert 120 <= kept.cost.steps < 600
    assert kept.cost.steps == checkpoints(folder)  # not one update is lost
    command = err.partition("Go on with: ")[2].strip()
    words = shlex.split(command)
    assert words == ["etude", "train", "--resume", str(folder)]
    run(*words[1:])
    assert equal_runs(folder, whole)


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in (1, 2))])
def test_a_killed_training_goes_on_to_the_same_bytes(tmp_path, whole, seed):
    rng = random.Random(seed)
    folder = tmp_path / "run"
    process = start(*TRAIN, "--out", str(folder))
    step = rng.choice([0, 30, 300, 480])
    wait(process, lambda: (folder / "recipe.toml").exists() and checkpoints(folder) >= step)
    time.sleep(rng.random() * 0.05)
    process.kill()
    assert finish(process)[0] == -signal.SIGKILL
    run("train", "--resume", str(folder))
    assert equal_runs(folder, whole)


@pytest.mark.slow
def test_a_training_killed_again_and_again_ends_at_the_same_bytes(tmp_path, whole):
    folder = tmp_path / "run"
    words = [*TRAIN, "--out", str(folder)]
    for step in (30, 150, 450):
        process = start(*words)
        wait(process, lambda step=step: checkpoints(folder) >= step)
        process.kill()
        finish(process)
        words = ["train", "--resume", str(folder)]
    run(*words)
    assert equal_runs(folder, whole)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("step", [12, 60, 180])
def test_a_tuning_stopped_anywhere_goes_on_to_the_same_answer(tmp_path, tuned, number, step):
    folder = tmp_path / "run"
    process = start(*TUNE, "--json", "--out", str(folder))
    wait(process, lambda: checkpoints(folder) >= step)
    process.send_signal(number)
    code, out, err = finish(process)
    if code == 0 and number == signal.SIGINT and step == 180:  # it came after the last update
        assert findings(out) == tuned[1]
        assert equal_runs(folder, tuned[0])
        return
    if number == signal.SIGINT:
        assert code == 130, err
        # What reads --json is told in JSON, and a person on the error stream, each the same.
        (said,) = json.loads(out).items()
        assert said[0] == "error"
        assert said[1] in err
        assert "Traceback" not in err
        assert shlex.split(err.partition("Go on with: ")[2]) == [
            "etude", "tune", "--resume", str(folder)
        ]  # fmt: skip
    else:
        assert code == -signal.SIGKILL
    assert not (folder / "model.safetensors").exists()
    assert findings(run("tune", "--resume", str(folder), "--json")) == tuned[1]
    assert equal_runs(folder, tuned[0])


@pytest.mark.slow
def test_a_second_ctrl_c_leaves_at_once_and_the_run_goes_on(tmp_path, whole):
    folder = tmp_path / "run"
    process = start(*TRAIN, "--out", str(folder))
    wait(process, lambda: checkpoints(folder) >= 120)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130, err
    assert "Traceback" not in err
    run("train", "--resume", str(folder))
    assert equal_runs(folder, whole)


MINE = """
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from etude import Task

x = torch.linspace(-1, 1, 640)[:, None].repeat(1, 4)
y = (x[:, 0] > 0).long()


def task():
    data = TensorDataset(x, y)
    train = DataLoader(data, 8, shuffle=True, num_workers=1, multiprocessing_context="spawn")
    return Task(lambda: torch.nn.Linear(4, 2), train, valid=(x, y), loss=cross_entropy)
"""


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["train", "tune"])
def test_ctrl_c_that_kills_the_loaders_workers_is_still_ctrl_c(tmp_path, verb):
    """A terminal sends it to every process: workers started afresh die of it at once."""
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    folder = tmp_path / "run"
    words = [verb, f"{tmp_path / 'mine.py'}:task", "--steps", "80", "--out", str(folder)]
    process = subprocess.Popen(
        [sys.executable, "-m", "etude", *words],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    wait(process, lambda: checkpoints(folder) >= 8)
    os.killpg(process.pid, signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130, err
    assert "Traceback" not in err
    assert f"Go on with: etude {verb} --resume {folder}" in err
