"""The pool: short memory, other engines, early stopping, kills and errors change no answer."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from etude import Task, TuneResult, train, tune
from etude.engines import LoopEngine, PoolEngine
from etude.trials.memory import TrialMemory
from etude.trials.pool import TrialPool
from etude.trials.trial import Trial, _bytes
from tests.tuning.common import (
    BASE,
    data,
    facts,
    noisy,
    quick,
    said_of_a_constant,
    same,
    task,
    weights,
)


@cache
def plain(budget: float = 3.0) -> TuneResult:
    return quick(task(noisy), BASE, budget, engine="loop")


# ---- memory ------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [False, True])
def test_without_memory_every_trial_waits_on_disk_and_nothing_else_changes(
    kept, tmp_path, monkeypatch
):
    expected = plain()
    spare = tmp_path / "spare"
    spare.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spare))
    held: list[int] = []
    make_room = TrialPool._make_room

    def counted(self: TrialPool) -> None:
        make_room(self)
        held.append(sum(c.in_memory for c in self.trials))

    monkeypatch.setattr(TrialPool, "_make_room", counted)
    folder = tmp_path / "run" if kept else None
    best = quick(task(noisy), BASE, memory=1, folder=folder, engine="loop")
    assert same(best, expected)
    assert weights(best.model) == weights(expected.model)
    assert max(held) == 1
    assert list(spare.iterdir()) == []


def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Move trials as from a device with a memory of its own."""
    begin = TrialMemory.__init__

    def begun(self: TrialMemory, *args: Any, **options: Any) -> None:
        begin(self, *args, **options)
        self._swaps = True

    monkeypatch.setattr(TrialMemory, "__init__", begun)


def test_trials_in_the_machine_s_memory_change_nothing_and_write_nothing(tmp_path, monkeypatch):
    expected = plain()
    moved = []
    offload_to_host = Trial.offload_to_host

    def counted(self: Trial, stream: Any = None) -> None:
        offload_to_host(self, stream)
        moved.append(self.in_memory)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    as_on_a_gpu(monkeypatch)
    monkeypatch.setattr(Trial, "offload_to_host", counted)
    best = quick(task(noisy), BASE, memory=1, engine="loop")
    assert same(best, expected)
    assert weights(best.model) == weights(expected.model)
    assert len(moved) > 3
    assert not any(moved)


def test_trials_go_to_disk_where_the_machine_s_memory_is_short_too(tmp_path, monkeypatch):
    as_on_a_gpu(monkeypatch)
    monkeypatch.setattr("etude.trials.memory.free_memory", lambda device=None: 0)
    monkeypatch.setattr(Trial, "offload_to_host", None)
    assert same(quick(task(noisy), BASE, memory=1, engine="loop"), plain())


def test_entering_alone_holds_no_more_than_memory_allows(monkeypatch):
    """Many recipes enter at once: each has a model from then on."""
    most = []
    add = TrialPool.add

    def counted(self: TrialPool, *args: Any) -> Any:
        found = add(self, *args)
        most.append(sum(c.in_memory for c in self.trials))
        return found

    monkeypatch.setattr(TrialPool, "add", counted)
    over = {"optimizer.weight_decay": [0.0, 0.01, 0.1], "clip_norm": [1.0, 10.0]}
    short = quick(task(noisy), BASE, 3.0, over=over, memory=1, engine="loop")
    assert max(most) <= 2
    monkeypatch.undo()
    assert same(short, quick(task(noisy), BASE, 3.0, over=over, engine="loop"))


def test_an_error_leaves_nothing_behind_either(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    calls = []

    def breaks(output: Tensor, target: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) > 200:
            raise RuntimeError("the user's own")
        return cross_entropy(output, target)

    with pytest.raises(Exception, match="the user's own"):
        quick(Task(noisy, data(), loss=breaks), BASE, memory=1)
    assert list(tmp_path.iterdir()) == []


# ---- engines -----------------------------------------------------------------------------


@pytest.mark.slow
def test_the_pool_gives_the_loop_s_answer_to_the_bit(tmp_path):
    with PoolEngine(2) as pool:
        best = quick(task(noisy), BASE, engine=pool, folder=tmp_path / "run", memory=1)
    assert same(best, plain())
    assert weights(best.model) == weights(plain().model)


LONGER = BASE.replace(steps=96)


class SideBySide(LoopEngine):
    """A loop that says it trains runs at the same time, and counts how many updates it does."""

    def __init__(self, workers: int = 99) -> None:
        super().__init__()
        self.workers = workers
        self.calls: list[list[int]] = []

    def parallel(self, runs: Any) -> int:
        return min(self.workers, len(runs))

    def advance(self, runs: Any, request: Any = None) -> None:
        before = [run.step for run in runs]
        super().advance(runs, request)
        self.calls.append([run.step - was for run, was in zip(runs, before, strict=True)])


def test_a_runner_up_is_trained_beside_the_finish(monkeypatch):
    """With more processes than runs; no update more, and nothing else changes."""
    monkeypatch.setattr("etude.trials.pool.cores", lambda: 4)
    engine, after = SideBySide(2), SideBySide(1)
    best, other = (quick(task(noisy), LONGER, engine=one) for one in (engine, after))
    assert "runner-up" in {part.name for part in best.costs}
    assert same(best, other)
    assert weights(best.model) == weights(other.model)
    assert engine.calls[-1] == [24, 24]
    assert after.calls[-2:] == [[24], [24]]
    assert sum(map(sum, engine.calls)) == sum(map(sum, after.calls))


def test_what_was_trained_ahead_in_vain_shows_nowhere(monkeypatch):
    """As if every rate were expected to be finished."""
    monkeypatch.setattr("etude.trials.pool.cores", lambda: 99)
    monkeypatch.setattr(
        "etude.tuning.search.search.coming",
        lambda ranking, best: [one for one in ranking.alive() if one is not best],
    )
    engine = SideBySide()
    best = quick(task(noisy), BASE, engine=engine)
    assert len(engine.calls[-1]) > 2
    assert same(best, plain())
    assert weights(best.model) == weights(plain().model)


def test_nothing_is_trained_ahead_where_runs_would_get_fewer_threads(monkeypatch):
    monkeypatch.setattr(TrialPool, "_threads", lambda self, trials: max(1, 3 - len(trials)))
    engine = SideBySide()
    quick(task(noisy), LONGER, engine=engine)
    assert engine.calls[-2:] == [[24], [24]]


@pytest.mark.slow
def test_processes_that_train_ahead_give_the_loop_s_answer_to_the_bit(monkeypatch):
    monkeypatch.setattr("etude.trials.pool.cores", lambda: 2)
    sizes = []
    advance = PoolEngine.advance

    def counted(self: PoolEngine, runs: Any, request: Any = None) -> None:
        sizes.append(len(runs))
        advance(self, runs, request)

    monkeypatch.setattr(PoolEngine, "advance", counted)
    with PoolEngine(2) as pool:
        best = quick(task(noisy), LONGER, engine=pool)
    assert sizes[-1] == 2
    plainly = quick(task(noisy), LONGER, engine="loop")
    assert same(best, plainly)
    assert weights(best.model) == weights(plainly.model)


@pytest.mark.slow
def test_stacked_trials_give_the_same_rate_or_a_tie():
    one, two = (quick(task(), BASE, engine=engine) for engine in ("loop", "vmap"))
    assert one.tied[0] <= two.lr <= one.tied[1] or two.tied[0] <= one.lr <= two.tied[1]
    assert [t.lr for t in one.trials][:5] == [t.lr for t in two.trials][:5]
    assert two.cost <= 3.0


# ---- runs of any length, runs that stop early --------------------------------------------


@pytest.mark.parametrize("steps", [16, 17, 63, 99, 100])
@pytest.mark.parametrize("budget", [1.2, 1.5, 3.0])
def test_a_length_that_no_rung_divides_is_compared_all_the_same(steps, budget):
    best = quick(task(), BASE.replace(steps=steps), budget)
    assert best.cost <= budget
    assert "after a divergence" not in {part.name for part in best.costs}
    assert best.record.cost.steps == steps
    assert len(best.trials) <= 9


def test_a_run_that_stops_early_stands_where_it_stopped():
    """Every rate stops before its end; the best of them is not lost for it."""
    x, y = data(60)
    noise = torch.randint(0, 2, (60,), generator=torch.Generator().manual_seed(1))
    of = Task(
        noisy,
        (x, y),
        valid=(x, torch.where(torch.arange(60) % 3 == 0, noise, y)),
        loss=cross_entropy,
    )
    recipe = BASE.replace(steps=200, early_stopping=3, schedule="constant()")
    best = quick(of, recipe, 4.0)
    alone = train(of, best.recipe)
    assert alone.cost.steps < 200
    assert best.record.status == "finished"
    assert best.record.evaluations[-1] == alone.evaluations[-1]
    assert weights(best.model) == weights(alone.model)
    assert "after a divergence" not in {part.name for part in best.costs}
    finished = [t for t in best.trials if t.record.status == "finished"]
    assert best.loss == min(t.record.valid_loss for t in finished)
    assert said_of_a_constant(best)
    assert best.outcome in ("found", "at an edge", "no better than a constant")


# ---- interruptions -----------------------------------------------------------------------


class Breaks(nn.Module):
    """Turns to NaN at one update of the run, once it has learned at a high rate."""

    def __init__(self, at: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.at = noisy(), at
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        out = self.inner(x)
        if self.training:
            self.calls += 1
            if self.calls > self.at and out.detach().std() > 1.0:
                return out * torch.nan
        return out


class StopError(Exception):
    pass


@pytest.mark.parametrize("at", [8, 16, 32])
def test_a_rate_that_breaks_at_the_first_update_after_a_pause_was_sound_at_the_pause(
    at, tmp_path, monkeypatch
):
    """Read back, it has broken already; it is judged as it was the first time."""
    from etude.training.loop import TrainingLoop

    of = Task(lambda: Breaks(at), data(), loss=cross_entropy)
    recipe = BASE.replace(steps=64)
    whole = quick(of, recipe, 3.0, engine="loop")
    assert any(t.record.status == "diverged" for t in whole.trials)
    updates = sum(t.record.cost.steps for t in whole.trials)
    update, seen = TrainingLoop._update, []

    def counted(self: TrainingLoop, *args: Any) -> None:
        seen.append(1)
        if len(seen) > 0.6 * updates:
            raise StopError("the power is gone")
        update(self, *args)

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "_update", counted)
        with pytest.raises(StopError, match="the power is gone"):
            quick(of, recipe, 3.0, folder=folder, engine="loop")
    again = tune(of, folder=folder, resume=True, progress=False, engine="loop")
    assert facts(again) == facts(whole)


@pytest.mark.parametrize("call", [3, 150, 600])
def test_an_error_in_the_user_s_code_says_how_to_go_on_and_going_on_gives_the_answer(
    call, tmp_path
):
    """In the first evaluation, while the best constant is computed, and in training."""
    folder, calls = tmp_path / "run", itertools.count(1)

    def breaks(output: Tensor, target: Tensor) -> Tensor:
        if next(calls) == call:
            raise RuntimeError("the user's own")
        return cross_entropy(output, target)

    of = Task(noisy, data(), loss=breaks, metric="accuracy")
    with pytest.raises(Exception, match="the user's own") as caught:
        quick(of, BASE, folder=folder, engine="loop")
    notes = [n for e in (caught.value, caught.value.__cause__) for n in getattr(e, "__notes__", ())]
    resume = f"etude.tune(task, folder={str(folder)!r}, resume=True)"
    said = f"The trials are saved. Go on with: {resume}"
    assert any(said in note for note in notes)
    assert list(folder.rglob("checkpoints/step-*")) or call < 600
    again = tune(of, folder=folder, resume=True, progress=False, engine="loop")
    assert same(again, plain())


KILLED = """
import sys, torch
from torch import nn
from torch.nn.functional import cross_entropy
import etude

def model():
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))

def task():
    g = torch.Generator().manual_seed(3)
    x = torch.randn(120, 6, generator=g)
    y = (x[:, 0] * x[:, 1] + 0.5 * x[:, 2] > 0).long()
    return etude.Task(model, (x, y), loss=cross_entropy, name="killed")

recipe = etude.Recipe(optimizer="adamw", steps=600, batch_size=16)

if __name__ == "__main__":
    etude.tune(task(), recipe, 3.0, folder=sys.argv[1], engine="pool", progress=False)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_killed_tuning_goes_on_to_the_same_answer(tmp_path):
    script, folder = tmp_path / "killed.py", tmp_path / "run"
    script.write_text(textwrap.dedent(KILLED), encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder)], env=environment, start_new_session=True
    )
    end = time.monotonic() + 100
    while not list(folder.rglob("checkpoints/step-0*225.json")):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "record.json").exists()
    space: dict[str, Any] = {"__name__": "killed"}
    exec(compile(script.read_text(encoding="utf-8"), str(script), "exec"), space)
    again = tune(space["task"](), folder=folder, resume=True, progress=False, engine="loop")
    whole = quick(space["task"](), space["recipe"], 3.0, engine="loop")
    assert facts(again) == facts(whole)
    assert weights(again.model) == weights(whole.model)


def test_what_is_kept_of_a_trial_is_what_its_evaluations_say(monkeypatch):
    go = TrialPool.go

    def compared(self: TrialPool, *args: Any) -> None:
        for trial in self.trials:
            assert (trial.curve(), trial.size()) == (trial.curve(), trial.size())
        go(self, *args)
        for trial in self.trials:
            assert trial.curve() == trial._drawn()
            assert trial.last() == trial.evaluated()[-1]
            assert trial.size() == sum(map(_bytes, trial.runs))

    monkeypatch.setattr(TrialPool, "go", compared)
    quick(task(noisy), engine="loop")
