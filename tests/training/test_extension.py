"""A run trained further, another task noticed, and folders whose run was killed at any write."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import l1_loss, mse_loss
from torch.utils.data import Dataset

from etude import Recipe, Record, Task, train, tune
from etude.errors import BadValueError, StorageError
from etude.tasks.references.fingerprint import fingerprint
from etude.training.evaluation.evaluation_steps import own_evaluation_steps

RECIPE = Recipe(lr=0.05, steps=12, batch_size=8, evaluations=4, schedule="cosine()")


def data(shift: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.linspace(-1, 1, 40)[:, None]
    return x, 3 * x + shift


def line(loss=mse_loss, source=None, width: int = 1) -> Task:
    model = lambda: nn.Sequential(nn.Linear(1, width), nn.Linear(width, 1))  # noqa: E731
    return Task(model, source or data(), loss=loss)


def weights(record: Record) -> list[float]:
    return torch.cat([p.detach().flatten() for p in record.model.parameters()]).tolist()


# ---- further -----------------------------------------------------------------------------------


def test_a_finished_run_goes_on_from_where_it_stood(tmp_path):
    first = train(line(), RECIPE, folder=tmp_path / "run")
    more = train(line(), folder=tmp_path / "run", resume=True, steps=20)
    assert (more.status, more.length, more.cost.steps, more.extended) == ("finished", 20, 20, (12,))
    assert np.array_equal(more.series["loss"][:12], first.series["loss"])
    shape = RECIPE.schedule.over(20)
    assert more.series["lr"][12:].tolist() == [RECIPE.lr * shape(t) for t in range(12, 20)]
    assert [e.step for e in more.evaluations] == [0, 3, 6, 9, 12, 15, 20]
    assert more.valid_loss < first.valid_loss
    kept = Record.load(tmp_path / "run")
    assert kept.extended == (12,)
    assert kept.recipe.steps == 20


@pytest.mark.parametrize("stop", [13, 15, 19])
def test_a_run_trained_further_is_resumed_to_the_bit(tmp_path, stop):
    for name in ("whole", "broken"):
        train(line(), RECIPE, folder=tmp_path / name)
    whole = train(line(), RECIPE.replace(steps=20), folder=tmp_path / "whole", resume=True)

    def fail(run):
        if run.step == stop:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError, match="Saved up to update"):
        train(line(), folder=tmp_path / "broken", resume=True, steps=20, on_step=fail)
    again = train(line(), folder=tmp_path / "broken", resume=True)
    assert weights(again) == weights(whole)
    assert again.evaluations == whole.evaluations
    assert again.extended == whole.extended == (12,)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "schedulefree_adamw", "lbfgs", "prodigy"])
def test_any_optimizer_goes_on(tmp_path, optimizer):
    pytest.importorskip("schedulefree")
    recipe = Recipe(optimizer=optimizer, steps=6, batch_size=8, schedule="constant()")
    train(line(), recipe, folder=tmp_path / "run")
    more = train(line(), folder=tmp_path / "run", resume=True, steps=12)
    assert (more.status, more.cost.steps) == ("finished", 12)
    assert np.isfinite(more.valid_loss)


def test_where_further_means_nothing_it_is_said(tmp_path):
    train(line(), RECIPE, folder=tmp_path / "run")
    go = {"folder": tmp_path / "run", "resume": True}
    with pytest.raises(BadValueError, match="has already done 12 updates: give at least that many"):
        train(line(), steps=5, **go)
    with pytest.raises(StorageError, match=r"another recipe \(other lr, steps\)"):
        train(line(), RECIPE.replace(steps=20, lr=0.1), **go)
    ended = RECIPE.replace(schedule="cosine(12)")
    train(line(), ended, folder=tmp_path / "ended")
    with pytest.raises(BadValueError, match=r"cosine\(12\) has ended, and its rate is 0 from"):
        train(line(), steps=20, folder=tmp_path / "ended", resume=True)
    broken = train(line(), RECIPE.replace(lr=1e30, optimizer="sgd"), folder=tmp_path / "broken")
    assert broken.status == "diverged"
    with pytest.raises(
        BadValueError, match=r"the run diverged .*: start a new run at a lower rate"
    ):
        train(line(), steps=20, folder=tmp_path / "broken", resume=True)


@pytest.mark.parametrize("optimizer", ["adamw", "schedulefree_adamw"])
def test_a_run_that_was_interrupted_may_end_where_it_stands(tmp_path, optimizer):
    """It was told that it had stopped early and restored its best weights."""
    pytest.importorskip("schedulefree")
    recipe = RECIPE.replace(optimizer=optimizer, schedule="constant()", early_stopping=5)

    def fail(run):
        if run.step == 6:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError, match="Saved up to update"):
        train(line(), recipe, folder=tmp_path / "run", on_step=fail)
    short = train(line(), folder=tmp_path / "run", resume=True, steps=6)
    alone = train(line(), recipe.replace(steps=6))
    assert (short.status, short.length, short.cost.steps) == ("finished", 6, 6)
    assert short.evaluations[-1].step == 6
    assert weights(short) == weights(alone)
    assert (tmp_path / "run/model.safetensors").exists()
    assert Record.load(tmp_path / "run").status == "finished"
    with pytest.raises(BadValueError, match="has already done 6 updates: give at least that many"):
        train(line(), folder=tmp_path / "run", resume=True, steps=5)


def test_evaluation_steps_of_every_length_stay():
    assert own_evaluation_steps([], 12, 4) == {0, 3, 6, 9, 12}
    assert own_evaluation_steps([(12, 12), (20, 20)], 40, 4) == {0, 3, 6, 9, 12, 15, 20, 30, 40}
    assert own_evaluation_steps([(7, 12)], 40, 4) == {0, 3, 6, 10, 20, 30, 40}


def test_more_updates_are_the_length_that_they_add_up_to(tmp_path):
    for name in ("a", "b"):
        train(line(), RECIPE, folder=tmp_path / name)
    one = train(line(), folder=tmp_path / "a", resume=True, more=8)
    two = train(line(), folder=tmp_path / "b", resume=True, steps=RECIPE.steps + 8)
    assert one.series["loss"].tolist() == two.series["loss"].tolist()
    assert one.length == RECIPE.steps + 8
    with pytest.raises(BadValueError, match="more=8 needs resume=True"):
        train(line(), RECIPE, more=8)
    with pytest.raises(BadValueError, match="give one of them"):
        train(line(), folder=tmp_path / "a", resume=True, more=8, steps=30)
    with pytest.raises(BadValueError, match="more=0 is out of bounds: give at least 1"):
        train(line(), folder=tmp_path / "a", resume=True, more=0)


# ---- another task ------------------------------------------------------------------------------


class Squares(Dataset):
    def __init__(self, shift: float = 0.0) -> None:
        self.x, self.y = data(shift)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[i], self.y[i]


def scaled(factor: float):
    return lambda output, target: factor * mse_loss(output, target)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (line(), line(source=data(1.0)), r"other training.*needs a fixed seed"),
        (line(), line(l1_loss), "other loss"),
        (line(scaled(1.0)), line(scaled(2.0)), "other loss"),
        (line(nn.MSELoss()), line(nn.MSELoss(reduction="sum")), "other loss"),
        (line(source=Squares()), line(source=Squares(2.0)), "other training data"),
        (
            Task(lambda: nn.Linear(1, 1), data(), loss=mse_loss),
            Task(lambda: nn.Linear(1, 1, bias=True).double().float().requires_grad_(), data(),
                 loss=mse_loss),
            "other model",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "task",
)  # fmt: skip
def test_another_task_is_noticed_and_may_be_accepted(tmp_path, before, after, said):
    train(before, RECIPE, folder=tmp_path / "run")
    with pytest.raises(
        StorageError, match=said + r".*[Oo]r accept the changes with accept_changes=True$"
    ):
        train(after, folder=tmp_path / "run", resume=True, steps=20)
    train(before, folder=tmp_path / "run", resume=True)
    more = train(after, folder=tmp_path / "run", resume=True, steps=20, accept_changes=True)
    assert more.cost.steps == 20
    note = json.loads((tmp_path / "run/fingerprint.json").read_text())["accepted"]
    assert [one["step"] for one in note] == [12]
    train(after, folder=tmp_path / "run", resume=True)


def test_a_tuning_notices_another_task(tmp_path):
    said = {"folder": tmp_path / "t", "progress": False, "engine": "loop"}
    tune(line(), RECIPE.replace(steps=32), 1.5, **said)
    with pytest.raises(StorageError, match=r"started with another task: other loss\. Restore"):
        tune(line(l1_loss), resume=True, **said)
    assert tune(line(l1_loss), resume=True, accept_changes=True, **said).lr
    assert tune(line(l1_loss), resume=True, **said).lr


def test_a_tuning_by_a_metric_of_the_whole_set_goes_on(tmp_path):
    """It was started with the metric as it tells its noise, which is another object's digest."""
    task = Task(lambda: nn.Linear(1, 1), data(), loss=mse_loss, metric="r2")
    said = {"folder": tmp_path / "t", "progress": False, "engine": "loop"}
    tune(task, RECIPE.replace(steps=16), 1.3, objective="metric", **said)
    assert tune(task, None, 1.5, resume=True, **said).budget == 1.5


class Noisy(Squares):
    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[i] + torch.rand(1, generator=self.generator), self.y[i]


def test_what_cannot_be_told_is_none():
    task = line(source=Noisy())
    assert fingerprint(task)["train"] is None


def test_digests_are_the_same_in_another_process():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import importlib.util as u\n"
        "spec = u.spec_from_file_location('further', sys.argv[2])\n"
        "m = u.module_from_spec(spec); sys.modules['further'] = m; spec.loader.exec_module(m)\n"
        "task = m.line(m.scaled(2.0)); import json\n"
        "print(json.dumps(m.fingerprint(task)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parents[2]), __file__],
        env={**os.environ, "PYTHONHASHSEED": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    here = fingerprint(line(scaled(2.0)))
    assert json.loads(run.stdout) == json.loads(json.dumps(here))


# ---- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o007])
def test_every_file_follows_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        train(line(), RECIPE, folder=tmp_path / "run")
        tune(line(), RECIPE.replace(steps=16), 1.3, folder=tmp_path / "t", progress=False)
    finally:
        os.umask(before)
    found = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in found} >= {".json", ".toml", ".safetensors"}
    for path in found:
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask, path.name


KILLED = """
import os, sys, pathlib
sys.path.insert(0, sys.argv[1])
import importlib.util as u
spec = u.spec_from_file_location("further", sys.argv[2])
m = u.module_from_spec(spec); sys.modules["further"] = m; spec.loader.exec_module(m)
from etude import files
home = pathlib.Path(sys.argv[3])
recipe = m.RECIPE.replace(steps=4, evaluations=1)
whole = m.weights(m.train(m.line(), recipe))

def killed(at):
    # Every operation on a file is the last one, in turn: the process is gone before it.
    count = 0
    def counted(function):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == at:
                os._exit(9)
            return function(*args, **kwargs)
        return call
    for name in ("touch", "replace", "unlink", "write_bytes", "mkdir"):
        setattr(pathlib.Path, name, counted(getattr(pathlib.Path, name)))
    os.fsync = counted(os.fsync)
    m.train(m.line(), recipe, folder=home / str(at), checkpoint_every=2)
    os._exit(0)

for at in range(1, 400):
    child = os.fork()
    if child == 0:
        killed(at)
    _, status = os.waitpid(child, 0)
    folder = home / str(at)
    begun = (folder / "recipe.toml").exists()
    import warnings; warnings.simplefilter("ignore")
    record = m.train(m.line(), None if begun else recipe, folder=folder, resume=begun)
    assert m.weights(record) == whole, at
    assert (folder / "model.safetensors").exists(), at
    if os.waitstatus_to_exitcode(status) == 0:
        print(at)
        break
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
@pytest.mark.slow
def test_killed_before_any_operation_on_a_file_it_is_begun_anew_or_goes_on(tmp_path):
    root = Path(__file__).parents[2]
    words = [sys.executable, "-c", KILLED, str(root), __file__, str(tmp_path)]
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 20
