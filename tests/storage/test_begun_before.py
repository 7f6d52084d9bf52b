"""Folders of an older Etude, kept as data: no task.json, no task_ref, the first digests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from etude import Record, tasks, train, tune
from etude.errors import StorageError
from etude.storage.run_folder import RunFolder
from etude.storage.tuning_folder import TuningFolder
from etude.tasks.references.reference import beside
from etude.tuning.result import TuneResult

KEPT = Path(__file__).parents[1] / "data" / "begun_before"
REFERENCE = f"{KEPT / 'plain_task.py'}:task"


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(shutil.copytree(KEPT, tmp_path / "kept"))


def recipe():
    tasks.load(REFERENCE)
    return beside(REFERENCE, "recipe")


def test_the_data_is_of_the_first_digests(folder):
    (found,) = (folder / "run/checkpoints").glob("*.json")
    digest = json.loads(found.read_text())["body"]["state"]["recipe"]
    assert digest != recipe().digest
    assert recipe().has_digest(digest)
    assert "task_ref" not in json.loads((folder / "run/record.json").read_text())


def test_a_record_is_read(folder):
    record = Record.load(folder / "run")
    assert record.ref is None
    assert (record.recipe, record.cost.steps, record.status) == (recipe(), 8, "stopped")


def test_a_run_goes_on(folder):
    task = tasks.load(REFERENCE)
    more = train(task, folder=folder / "run", resume=True)
    whole = train(task, recipe())
    assert more.status == "finished"
    assert more.series["loss"].tolist() == pytest.approx(whole.series["loss"].tolist(), rel=1e-4)
    assert RunFolder(folder / "run").task.read() == more.ref
    assert more.ref.source == task.ref


def test_a_run_goes_on_in_another_length(folder):
    more = train(tasks.load(REFERENCE), folder=folder / "run", resume=True, steps=24)
    assert (more.cost.steps, more.extended) == (24, (8,))


def test_a_run_of_another_recipe_is_still_refused(folder):
    path = folder / "run/recipe.toml"
    path.write_text(path.read_text().replace("0.05", "0.06"))
    with pytest.raises(StorageError, match=r"the checkpoint is of recipe \w+, not \w+"):
        train(tasks.load(REFERENCE), folder=folder / "run", resume=True)


def test_a_tuning_is_read_and_takes_more_budget(folder):
    task, home = tasks.load(REFERENCE), folder / "tuning"
    kept = TuneResult.load(home)
    assert kept.record.ref is None
    same = tune(task, folder=home, resume=True, progress=False)
    assert same.plain() == kept.plain()
    more = tune(task, None, 2.0, folder=home, resume=True, progress=False, engine="loop")
    assert more.budget == 2.0
    assert TuningFolder(home).run.task.read() is not None
