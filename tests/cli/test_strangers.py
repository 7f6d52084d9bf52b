"""A run folder from somebody else runs no code that the user did not name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from etude.tasks.references import trusted
from etude.tasks.references.ref import TaskRef, source_files

MINE = """
import pathlib
import torch
from etude import Task

pathlib.Path("ran").touch()


def make(width=2):
    pathlib.Path("called").touch()
    x = torch.linspace(-1, 1, 40)[:, None]
    model = lambda: torch.nn.Sequential(torch.nn.Linear(1, width), torch.nn.Linear(width, 1))
    return Task(model, (x, 3 * x), loss=torch.nn.functional.mse_loss)


def harm(**options):
    pathlib.Path("harmed").touch()


task = make()
"""
STEPS = ("--steps", "4", "--batch-size", "8")


@pytest.fixture(autouse=True)
def _own_state(monkeypatch, tmp_path_factory):
    monkeypatch.setenv(trusted.STATE, str(tmp_path_factory.mktemp("state")))


@pytest.fixture
def begun(etude):
    """A run of a task of one's own, begun here; what importing it leaves behind is gone."""
    Path("mine.py").write_text(MINE)
    assert etude("train", "mine.py:make", "--with", "width=3", *STEPS, "--out", "run").code == 0
    forget()
    return etude


def forget() -> None:
    for name in ("ran", "called", "harmed"):
        Path(name).unlink(missing_ok=True)


def names(**changes) -> None:
    path = Path("run/task.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_was_begun_here_goes_on(begun):
    said = begun("train", "--resume", "run", "--json")
    assert said.code == 0
    assert said.json["task"] == "make"
    assert Path("ran").exists()


def test_a_run_begun_elsewhere_does_not(begun, monkeypatch, tmp_path_factory):
    monkeypatch.setenv(trusted.STATE, str(tmp_path_factory.mktemp("elsewhere")))
    said = begun("train", "--resume", "run")
    assert said.code == 1
    assert "no run was started with it on this machine; nothing of it was run" in said.err
    assert "--resume run --task file.py:name" in said.err
    assert not Path("ran").exists()
    typed = ("--task", "mine.py:make", "--with", "width=3")
    assert begun("train", "--resume", "run", *typed).code == 0
    forget()
    assert begun("train", "--resume", "run").code == 0  # what was typed once is known


def test_where_no_task_can_be_noted_that_is_the_reason(begun, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv(trusted.STATE, str(tmp_path / "file" / "state"))
    said = begun("train", "--resume", "run")
    assert said.code == 1
    assert "cannot be noted" in said.err
    assert "set ETUDE_STATE_DIR to a folder that can be written); nothing of it was run" in said.err
    assert not Path("ran").exists()


@pytest.mark.parametrize("verb", ["train", "tune"])
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"options": {"width": 4}}, "no run was started with it"),
        ({"reference": "HERE/mine.py:harm"}, "no run was started with it"),
        ({"reference": "HERE/mine.py:task"}, "no run was started with it"),
        ({"reference": "HERE/other.py:task"}, "no run was started with it"),
        ({"reference": "HERE/gone.py:task"}, "not been run on this machine"),
        ({"reference": "os:system", "options": {"command": "touch harmed"}}, "nothing of it"),
        ({"reference": "other:task"}, "nothing of it was run"),
        ({"reference": "etude.tasks.blueprint:resolve"}, "nothing of it was run"),
        ({"reference": "torch:load", "options": {"f": "x"}}, "nothing of it was run"),
        ({"reference": "digits"}, "not among the bundled ones"),
        ({"reference": ":"}, "not among the bundled ones"),
        ({"reference": "x" * 20_000}, "not among the bundled ones"),
        ({"reference": "\ud800.py:\ud800"}, "nothing of it was run"),
        ({"reference": "\0.py:task"}, "nothing of it was run"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_altered_reference_runs_nothing(begun, verb, changes, why):
    Path("other.py").write_text(MINE)
    if "reference" in changes:
        changes = {**changes, "reference": changes["reference"].replace("HERE", str(Path.cwd()))}
    names(**changes)
    said = begun(verb, "--resume", "run")
    assert said.code in (1, 2)
    assert why in said.err
    assert "--task" in said.err
    assert len(said.err) < 1500
    assert "Traceback" not in said.err
    for mark in ("ran", "called", "harmed"):
        assert not Path(mark).exists()


def test_a_changed_file_is_named_as_such_and_not_run(begun):
    Path("mine.py").write_text(MINE + "\n# another line\n")
    said = begun("train", "--resume", "run")
    assert said.code == 1
    assert "its file has changed since" in said.err
    assert not Path("ran").exists()


def test_a_note_in_the_folder_is_no_trust(begun, monkeypatch, tmp_path_factory):
    kept = trusted.state_folder()
    shutil.copytree(kept, Path("run/state"))
    monkeypatch.setenv(trusted.STATE, str(tmp_path_factory.mktemp("elsewhere")))
    assert begun("train", "--resume", "run").code == 1
    assert not Path("ran").exists()


@pytest.mark.parametrize("options", [{"width": "x"}, {"width": 10**14}, {"depth": -1}, {"no": 1}])
def test_options_of_a_bundled_task_are_checked(etude, options):
    assert etude("train", "cancer-mlp", *STEPS, "--out", "run").code == 0
    names(options=options)
    said = etude("train", "--resume", "run")
    assert said.code in (1, 2)
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "3",
        '"text"',
        "{}",
        '{"reference": 3}',
        '{"reference": null, "options": {}}',
        '{"reference": "cancer-mlp", "options": []}',
        '{"reference": "cancer-mlp", "options": {}, "digest": {}}',
        '{"reference": "cancer-mlp", "reference": "os:system"}',
        '{"reference": "cancer-mlp", "options": {"width": NaN}}',
        '{"reference": "cancer-mlp", "options": {"width": 1e999}}',
        '{"a":' * 50_000,
        "[" * 100_000,
        '{"reference": "cancer-mlp", "options": {"width": ' + "[" * 900 + "]" * 900 + "}}",
        '{"reference": ["' + "x" * 20_000 + '"]}',
    ],
    ids=lambda text: text[:50],
)
def test_a_damaged_task_file_is_one_line(etude, text):
    assert etude("train", "cancer-mlp", *STEPS, "--out", "run").code == 0
    Path("run/task.json").write_text(text)
    said = etude("train", "--resume", "run")
    assert said.code in (1, 2)
    assert "Traceback" not in said.err
    assert "task" in said.err
    assert len(said.err) < 1500


@pytest.mark.parametrize("text", ["", "[]", "{}", "{", '{"cost": NaN}', "1" * 5_000])
def test_a_damaged_record_is_said_to_be_written_anew(etude, text):
    """It is read by nothing that goes on: the checkpoint holds all of it."""
    assert etude("train", "cancer-mlp", *STEPS, "--out", "run").code == 0
    before = json.loads(Path("run/record.json").read_text())
    Path("run/record.json").write_text(text)
    with pytest.warns(UserWarning, match=r"record in 'run' is damaged .*: the run writes it anew"):
        assert etude("train", "--resume", "run").code == 0
    assert json.loads(Path("run/record.json").read_text()) == before


def test_the_record_of_another_run_is_not_replaced(etude):
    for name, lr in (("run", "0.01"), ("other", "0.02")):
        assert etude("train", "cancer-mlp", *STEPS, "--lr", lr, "--out", name).code == 0
    theirs = Path("other/record.json").read_bytes()
    Path("run/record.json").write_bytes(theirs)
    said = etude("train", "--resume", "run")
    assert said.code == 1
    assert "the record in 'run' is of another run (other lr)" in said.err
    assert "move record.json away, and resume again" in said.err
    assert Path("run/record.json").read_bytes() == theirs
    Path("run/record.json").unlink()
    assert etude("train", "--resume", "run", "--steps", "6").code == 0
    assert json.loads(Path("run/record.json").read_text())["recipe"]["lr"] == 0.01


def test_a_run_without_its_checkpoints_says_that_it_begins_again(etude):
    assert etude("train", "cancer-mlp", *STEPS, "--out", "run").code == 0
    shutil.rmtree("run/checkpoints")
    with pytest.warns(UserWarning, match="a record of 4 updates and no checkpoint to go on from"):
        assert etude("train", "--resume", "run").code == 0


def test_where_nothing_can_be_noted_the_process_itself_remembers(tmp_path, monkeypatch):
    """Else a study of a user without a writable home would ask for a note for ever."""
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "file").touch()
    monkeypatch.setenv(trusted.STATE, str(tmp_path / "file" / "state"))
    ref = TaskRef.of(f"{tmp_path / 'mine.py'}:task", {})
    assert not trusted.is_trusted(ref)
    trusted.remember(ref)
    assert trusted.is_trusted(ref)
    assert not trusted.is_trusted(TaskRef.of(ref.reference, {"width": 3}))
    (tmp_path / "mine.py").write_text(MINE + "\n# changed\n")
    assert not trusted.is_trusted(ref)


def test_options_of_the_folder_are_not_passed_to_what_is_typed(begun):
    names(options={"width": 9})
    said = begun("train", "--resume", "run", "--task", "mine.py:make")
    assert "other task: model" in said.err or "another model" in said.err or said.code == 1
    assert json.loads(Path("run/task.json").read_text())["options"] == {}


def test_module_files_are_found_without_importing(tmp_path, monkeypatch):
    package = tmp_path / "strange_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit")
    (package / "inner.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    found = [path.name for path in source_files("strange_package.inner:task")]
    assert found == ["__init__.py", "inner.py"]
    assert source_files("strange_package.nothing:task") == []
    assert not TaskRef.of("digits-mlp", {}).digest
