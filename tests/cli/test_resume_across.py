"""A run begun in Python goes on from the shell and back, to the bit; else it is said what to do."""

from __future__ import annotations

import json
import runpy
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import mse_loss

import etude as library
from etude import Recipe, Record, Task, tasks, train, tune
from etude.errors import Interrupted, StorageError
from etude.next_step import SavedState
from etude.storage.run_folder import RunFolder
from etude.tasks.references import trusted
from etude.tasks.references.ref import TaskRef

MINE = """
import torch
from torch.nn.functional import mse_loss
from etude import Task


def make(width=2, **rest):
    x = torch.linspace(-1, 1, 40)[:, None]
    return Task(lambda: torch.nn.Linear(1, 1), (x, width * x), loss=mse_loss)


task = make()
"""
RECIPE = Recipe(optimizer="sgd", lr=0.05, steps=12, batch_size=8, evaluations=4)


@pytest.fixture(autouse=True)
def _own_state(monkeypatch, tmp_path_factory, etude):
    monkeypatch.setenv(trusted.STATE, str(tmp_path_factory.mktemp("state")))
    Path("mine.py").write_text(MINE)


class StopError(Exception):
    pass


def stopped_at(step: int) -> Any:
    def stop(run: Any) -> None:
        if run.step == step:
            raise StopError("the power is gone")

    return stop


def by_hand() -> Task:
    x = torch.linspace(-1, 1, 40)[:, None]
    return Task(lambda: torch.nn.Linear(1, 1), (x, 2 * x), loss=mse_loss)


def begin(task: Task, folder: str = "run") -> StopError:
    with pytest.raises(StopError, match="the power is gone") as caught:
        train(task, RECIPE, folder=folder, on_step=stopped_at(5))
    return caught.value


def equal(one: str | Path, two: str | Path) -> None:
    a, b = Record.load(one), Record.load(two)
    assert a.series.keys() == b.series.keys()
    assert all(a.series[name].tolist() == b.series[name].tolist() for name in a.series)
    assert (a.evaluations, a.status, a.task) == (b.evaluations, b.status, b.task)
    name = "model.safetensors"
    assert (Path(one) / name).read_bytes() == (Path(two) / name).read_bytes()


REFERENCES = [
    ("cancer-mlp", {"width": 3}),
    ("mine.py:make", {"width": 3}),
    ("mine.py:task", {}),
]


@pytest.mark.parametrize(("reference", "options"), REFERENCES)
def test_begun_in_python_it_goes_on_from_the_shell(etude, reference, options):
    task = tasks.load(reference, **options)
    train(task, RECIPE, folder="whole")
    begin(task)
    said = etude("train", "--resume", "run", "--json")
    assert said.code == 0, said.err
    equal("run", "whole")
    assert said.json["task_ref"]["options"] == options


@pytest.mark.parametrize(("reference", "options"), REFERENCES)
def test_begun_from_the_shell_it_goes_on_in_python_and_back(etude, reference, options):
    words = [word for name, value in options.items() for word in ("--with", f"{name}={value}")]
    RECIPE.save("r.toml")
    begun = ("train", reference, *words, "--recipe", "r.toml")
    assert etude(*begun, "--out", "whole").code == 0
    task = tasks.load(reference, **options)
    begin(task)
    with pytest.raises(StopError, match="the power is gone"):
        train(task, folder="run", resume=True, on_step=stopped_at(8))
    assert etude("train", "--resume", "run").code == 0
    equal("run", "whole")
    # The shell's own folder, further in Python.
    more = train(task, folder="whole", resume=True, steps=16)
    assert etude("train", "--resume", "run", "--steps", "16").code == 0
    equal("run", "whole")
    assert more.ref == RunFolder(Path("run")).task.read()


def test_a_tuning_begun_in_python_goes_on_from_the_shell(etude):
    task = tasks.load("mine.py:task")
    said = {"progress": False, "engine": "loop"}
    tune(task, RECIPE.replace(steps=32), 1.5, folder="t", **said)
    more = etude("tune", "--resume", "t", "--budget", "2", "--engine", "loop", "--json")
    assert more.code == 0, more.err
    tune(task, RECIPE.replace(steps=32), 1.5, folder="fresh", **said)
    fresh = tune(task, budget=2.0, folder="fresh", resume=True, **said)
    assert more.json["lr"] == fresh.lr
    equal("t", "fresh")


# ---- without a reference -----------------------------------------------------------------------


def test_without_a_reference_the_shell_says_what_to_do(etude):
    program = runpy.run_path("mine.py")  # the same code, which nothing names from outside
    assert program["task"].ref is None
    train(program["task"], RECIPE, folder="whole")
    begin(program["task"])
    assert not Path("run/task.json").exists()
    said = etude("train", "--resume", "run")
    assert said.code == 1
    assert "holds no task.json: its run was started in Python" in said.err
    assert "Continue there, with etude.train(task, folder='run', resume=True)" in said.err
    assert "type: etude train --resume run --task file.py:name" in said.err
    words = shlex.split(said.err.strip().partition("type: etude ")[2].replace("file", "mine"))
    assert etude(*[word.replace(":name", ":task") for word in words]).code == 0
    assert Record.load("run").evaluations == Record.load("whole").evaluations
    # Typed once, the folder has its reference: nothing needs to be typed again.
    assert etude("train", "--resume", "run", "--steps", "16").code == 0


def test_a_tuning_without_a_reference_names_its_own_verb(etude):
    tune(by_hand(), RECIPE.replace(steps=16), 1.3, folder="t", progress=False, engine="loop")
    said = etude("train", "--resume", "t")
    assert "with etude.tune(task, folder='t', resume=True)" in said.err
    assert "etude tune --resume t --task file.py:name" in said.err


def test_a_folder_without_a_run_is_named_as_such(etude):
    Path("empty").mkdir()
    for folder in ("empty", "nowhere"):
        said = etude("train", "--resume", folder)
        assert f"'{folder}' holds no run to resume" in said.err
        assert "started in Python" not in said.err
        typed = etude("train", "--resume", folder, "--task", "mine.py:task")
        assert "holds no run to resume" in typed.err
    assert not Path("nowhere").exists()


# ---- what names a task -------------------------------------------------------------------------


def test_a_task_knows_how_it_was_made():
    own = tasks.get("cancer-mlp", width=3)
    assert own.ref == tasks.load("cancer-mlp", width=3).ref == TaskRef("cancer-mlp", {"width": 3})
    mine = tasks.load("mine.py:make", width=3)
    assert mine.ref == TaskRef.of("mine.py:make", {"width": 3})
    assert Path(mine.ref.reference.rpartition(":")[0]).is_absolute()
    assert mine.name == "make"
    assert by_hand().ref is None
    assert tasks.load("mine.py:make", net=object()).ref is None
    assert tasks.load("mine.py:make", sizes=(1, 2)).ref is None  # JSON knows no tuple


def test_what_is_made_of_a_task_is_another_one():
    task = tasks.get("cancer-mlp", width=3)
    assert replace(task, loss=mse_loss).ref is None
    assert task.on(torch.device("cpu")).ref == task.ref


def test_a_record_carries_the_reference_and_tells_what_was_built():
    task = tasks.get("cancer-mlp", width=3)
    record = train(task, RECIPE, folder="run")
    kept, note = Record.load("run"), RunFolder(Path("run")).task.read()
    assert record.ref == kept.ref == note
    assert note.source == task.ref
    assert note.built
    best = tune(task, RECIPE.replace(steps=16), 1.3, folder="t", progress=False, engine="loop")
    assert best.record.ref == note
    train(tasks.get("cancer-mlp", width=4), RECIPE, folder="other")
    assert RunFolder(Path("other")).task.read().built != note.built
    assert train(by_hand(), RECIPE).plain()["task_ref"] is None


def test_a_note_of_another_program_is_left_alone(etude):
    Path("run").mkdir()
    Path("run/task.json").write_text('{"tasks": []}')
    with pytest.raises(StorageError, match=r"has a task\.json that is not Etude's: choose another"):
        train(by_hand(), RECIPE, folder="run")
    assert etude("train", "cancer-mlp", "--out", "run").code == 1
    assert Path("run/task.json").read_text() == '{"tasks": []}'


def test_a_note_that_a_killed_run_left_does_not_name_another_s_task():
    Path("run").mkdir()
    Path("run/task.json").write_text(json.dumps(TaskRef("digits-mlp").plain()))
    train(by_hand(), RECIPE, folder="run")
    assert not Path("run/task.json").exists()


# ---- who words what ----------------------------------------------------------------------------


def test_a_note_names_the_call_in_python_and_the_command_in_the_shell(etude, monkeypatch):
    error = begin(tasks.load("cancer-mlp", width=3))
    call = "etude.train(etude.tasks.load('cancer-mlp', width=3), folder='run', resume=True)"
    assert error.__notes__ == [f"Saved up to update 5. Go on with: {call}"]
    assert eval(call, {"etude": library}).status == "finished"
    (note,) = begin(by_hand(), "own").__notes__
    assert note.endswith("Go on with: etude.train(task, folder='own', resume=True)")

    import etude.training.train as module

    def fails(*args: Any, **kwargs: Any) -> None:
        wrong = StorageError("the disk is full")
        wrong.add_note(*error.__notes__)
        raise wrong

    monkeypatch.setattr(module, "train", fails)
    said = etude("train", "cancer-mlp", "--out", "x")
    assert "Saved up to update 5. Go on with: etude train --resume run\n" in said.err
    assert "etude.train" not in said.err


def test_an_interruption_carries_facts_and_each_words_them(etude, monkeypatch):
    facts = SavedState("train", Path("a run"), 5, 12, "SIGINT", "cancer-mlp", {"width": 3})
    stop = Interrupted("stopped by SIGINT after update 5 of 12; the state is saved", facts)
    assert (stop.next_step.step, stop.next_step.length, stop.next_step.signal) == (5, 12, "SIGINT")
    call = "etude.train(etude.tasks.load('cancer-mlp', width=3), folder='a run', resume=True)"
    assert str(stop) == f"{stop.said}. Go on with: {call}"

    import etude.training.train as module

    def stops(*args: Any, **kwargs: Any) -> None:
        raise stop

    monkeypatch.setattr(module, "train", stops)
    said = etude("train", "cancer-mlp", "--out", "x", "--json")
    assert said.code == 130
    wanted = f"{stop.said}. Go on with: etude train --resume 'a run'"
    assert said.json == {"error": wanted}
    assert wanted in said.err


def test_only_the_command_line_names_its_option(etude):
    train(tasks.load("mine.py:task"), RECIPE, folder="run")
    Path("mine.py").write_text(MINE.replace("width * x", "(width + 1) * x"))
    with pytest.raises(StorageError, match=r"Or accept the changes with accept_changes=True$"):
        train(tasks.load("mine.py:task"), folder="run", resume=True)
    said = etude("train", "--resume", "run", "--task", "mine.py:task")
    assert "Or accept the changes with --accept-changes" in said.err
    assert "accept_changes=True" not in said.err
    assert etude("train", "--resume", "run", "--accept-changes").code == 0
