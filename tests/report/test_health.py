"""The health section of a run's report, and what is made of a damaged note."""

from __future__ import annotations

import dataclasses
import json

import pytest
from torch import nn
from torch.nn.functional import cross_entropy

import etude
from etude import Recipe, Record, Task
from etude.diagnosis.health.read import health_of
from etude.errors import StorageError
from etude.report import html, present
from tests.diagnosis.programs import classes

RECIPE = Recipe(lr=0.02, steps=40, batch_size=32, evaluations=4)


@pytest.fixture(scope="module")
def task():
    def model():
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))

    return Task(model, classes(128), loss=cross_entropy, name="classes")


@pytest.fixture(scope="module")
def folder(task, tmp_path_factory):
    place = tmp_path_factory.mktemp("run")
    etude.train(task, RECIPE, folder=place)
    return place


def section(report, title):
    return next((one for one in report.sections if one.title == title), None)


def test_a_healthy_run_says_so_in_one_fact_and_keeps_the_rest_for_the_page(folder):
    report = present(Record.load(folder))
    fact = next(one for one in report.facts if one.name == "Health")
    assert fact.value == "healthy"
    assert fact.note.startswith("in ")
    assert "of 40 updates" in fact.note
    assert section(report, "Health").detail
    layers = section(report, "Layers")
    assert layers.detail
    assert [row.cells[0] for row in layers.parts[0].rows] == ["0", "2"]
    page = html(Record.load(folder))
    assert "Nothing is wrong in what was looked at." in page


def test_a_run_with_findings_shows_them_in_the_terminal_too(task):
    record = etude.train(task, RECIPE.replace(lr=1e30, optimizer="sgd"), watch=True)
    report = present(record)
    health = section(report, "Health")
    assert not health.detail
    assert any("diverging" in str(part) for part in health.parts)
    fact = next(one for one in report.facts if one.name == "Health")
    assert "diverging" in fact.value


def test_a_run_that_was_not_watched_has_no_section(task):
    report = present(etude.train(task, RECIPE))
    assert section(report, "Health") is None
    assert "Health" not in [one.name for one in report.facts]


def test_what_is_read_back_is_what_was_noted(folder, task):
    record = Record.load(folder)
    found = health_of(record)
    assert json.loads((folder / "notes.json").read_text()) == {"watch": record.notes["watch"]}
    assert found.to_dict()["findings"] == record.notes["watch"]["diagnosis"]["findings"]
    assert len(found.history.steps) == found.history.samples


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("diagnosis", "findings"), [{"what": "haunted"}]),
        (("diagnosis", "seen"), "all"),
        (("history", "steps"), [0, "one"]),
        (("history", "readings"), {"dead": [[0.5]]}),
        (("history", "layers"), [{"name": 3}]),
        (("history", "run_readings"), {"clipped": [None]}),
    ],
)
def test_a_damaged_note_is_told_of_and_the_report_is_still_made(folder, place, value):
    record = Record.load(folder)
    note = json.loads(json.dumps(record.notes["watch"]))
    note[place[0]][place[1]] = value
    damaged = dataclasses.replace(record, notes={"watch": note})
    with pytest.raises(StorageError, match="what the watch noted is damaged"):
        health_of(damaged)
    fact = next(one for one in present(damaged).facts if one.name == "Health")
    assert fact.value == "cannot be read"


def test_a_finding_of_another_version_is_told_of(folder):
    record = Record.load(folder)
    finding = {"what": "haunted", "kind": "cause", "layer": None, "step": 1, "text": "Boo.",
               "fix": "", "evidence": {}}  # fmt: skip
    note = json.loads(json.dumps(record.notes["watch"]))
    note["diagnosis"]["findings"] = [finding]
    damaged = dataclasses.replace(record, notes={"watch": note})
    with pytest.raises(StorageError, match="'haunted' is no symptom and no cause"):
        health_of(damaged)


def test_notes_that_are_no_table_are_refused(folder, tmp_path):
    for path in folder.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "notes.json").write_text("[1]")
    with pytest.raises(StorageError, match=r"the notes .* is damaged: it holds a list"):
        Record.load(tmp_path)
