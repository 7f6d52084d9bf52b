"""Killed at any moment and resumed, as often as it takes: the weights of a run never disturbed.

ETUDE_KILLS says how many kills over all optimizers; 200 take a few minutes.
"""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from etude import Recipe, Record, Task, tasks, train, tune
from etude.optimizers import ROWS

NAMES = [r.name for r in ROWS.values() if not r.package or importlib.util.find_spec(r.module)]
KILLS = int(os.environ.get("ETUDE_KILLS", "26"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the victims are forked"),
]


@pytest.fixture(scope="module")
def cancer() -> Task:
    return tasks.load("cancer-mlp", width=4)


def recipe_of(name: str) -> Recipe:
    row = ROWS[name]
    return Recipe(
        optimizer={"name": name, **({"momentum": 0.9} if name == "sgd" else {})},
        lr=1.0 if row.closure or name == "lars" else 10**row.centre,
        steps=16 if row.closure else 60,
        batch_size=32,
        seed=3,
    )


def forked(work: Callable[[], object]) -> int:
    """Do work in a process of its own and return its number."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        torch.set_num_threads(1)
        work()
        code = 0
    finally:
        os._exit(code)


def killed_until_done(work: Callable[[], object], kills: int, within: float, seed: str) -> int:
    """Kill the process that works `kills` times, at random moments; then let it end.

    Returns:
        How many kills found it at work.
    """
    moments = random.Random(seed)
    hits = 0
    for _ in range(10 * kills):
        if hits == kills:
            break
        pid = forked(work)
        time.sleep(moments.uniform(0.0, within))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            assert os.waitstatus_to_exitcode(status) == 0
            return hits  # it was done before
        hits += 1
    _, status = os.waitpid(forked(work), 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return hits


def weights(model: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_run_ends_with_the_same_bits(name, cancer, tmp_path):
    recipe = recipe_of(name)
    started = time.perf_counter()
    whole = train(cancer, recipe, folder=tmp_path / "whole", checkpoint_every=2)
    within = (time.perf_counter() - started) / 3
    wanted = (tmp_path / "whole" / "model.safetensors").read_bytes()
    hits, tries = 0, 0
    kills = -(-KILLS // len(NAMES))
    while hits < kills:
        tries += 1
        assert tries <= 20 + 10 * kills
        folder = tmp_path / f"killed-{tries}"

        def work(folder: Path = folder) -> None:
            known = (folder / "recipe.toml").exists()
            given = None if known else recipe
            train(cancer, given, folder=folder, resume=known, checkpoint_every=2)

        found = killed_until_done(work, min(4, kills - hits), within, f"{name}{tries}")
        hits += found
        if not found:  # it was done before: the first run was slower than its forks are
            within /= 2
        assert (folder / "model.safetensors").read_bytes() == wanted
        record = Record.load(folder)
        assert record.status == "finished"
        for series, values in whole.series.items():
            assert record.series[series].tolist() == values.tolist()
        assert [e.loss for e in record.evaluations] == [e.loss for e in whole.evaluations]


@pytest.mark.parametrize("name", ["adamw", "soap", "schedulefree_sgd"])
def test_a_killed_tuning_ends_with_the_same_answer(name, cancer, tmp_path):
    recipe = recipe_of(name)

    def tuned(folder: Path) -> None:
        known = (folder / "tuning.json").exists()
        tune(
            cancer,
            None if known else recipe,
            2.0,
            folder=folder,
            resume=known,
            engine="loop",
            progress=False,
        )

    started = time.perf_counter()
    assert (
        os.waitstatus_to_exitcode(os.waitpid(forked(lambda: tuned(tmp_path / "whole")), 0)[1]) == 0
    )
    within = (time.perf_counter() - started) / 2
    for tries in range(20):
        folder = tmp_path / f"killed-{tries}"
        if killed_until_done(lambda f=folder: tuned(f), max(1, KILLS // 50), within, name):
            break
        within /= 2
    else:
        pytest.fail("no kill found the tuning at work")
    one, other = (load_file(model_of(f)) for f in (tmp_path / "whole", folder))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def model_of(folder: Path) -> Path:
    """Return the finished model of a tuning's folder."""
    (path,) = folder.rglob("model.safetensors")
    return path
