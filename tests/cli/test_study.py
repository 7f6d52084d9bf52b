"""`etude study`: from a file to a page, a second time, and with wrong input."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

PLAN = """
tasks = ["cancer-mlp"]
lrs = {from = 0.001, to = 0.1, points = 3}
seeds = [0, 1]
steps = 8
"""


@pytest.fixture
def plan(etude):
    Path("rates.toml").write_text(PLAN)
    return etude


def test_a_file_is_trained_shown_listed_and_exported(plan):
    etude = plan
    said = etude("study", "rates.toml", "--engine", "loop")
    assert said.code == 0
    assert "6 of 6 trials done" in said.out
    again = etude("study", "rates.toml", "--engine", "loop")
    assert again.out == said.out
    assert etude("study", "show", "rates").out == said.out
    assert etude("study", "resume", "rates").out == said.out
    assert etude("study", "ls").out.split()[-5:] == ["rates", "6", "0", "0", "0"]
    assert etude("study", "ls", "--json").json[0] == {
        "name": "rates",
        "waiting": 0,
        "running": 0,
        "done": 6,
        "failed": 0,
    }
    rows = list(csv.DictReader(io.StringIO(etude("study", "export", "csv", "rates").out)))
    shown = etude("study", "show", "rates", "--json").json["trials"]
    assert [float(row["loss"]) for row in rows] == [one["loss"] for one in shown]
    assert etude("study", "report", "rates").code == 0
    assert "rates" in Path("rates.html").read_text()
    assert etude("study", "export", "optuna", "rates", "sqlite:///optuna.db").code == 0


def test_one_command_runs_the_file_too(plan):
    said = plan("study", "run", "rates.toml", "--engine", "loop", "--json")
    assert said.json["name"] == "rates"
    assert [one["state"] for one in said.json["trials"]] == ["done"] * 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks = 'cancer-mlp'\nlr = 0.1", "unknown key of a plan 'lr': did you mean 'lrs'"),
        ("tasks = 'cancer-mlp'\nlrs = []", "lrs is empty"),
        ("tasks = 'cancer-mlp'\nlrs = [0.0]", "lr"),
        ("tasks = 'cancer-mlp'\nlrs = [nan]", "lr"),
        ("tasks = 'cancer-mpl'", "did you mean 'cancer-mlp'"),
        ("tasks = 'cancer-mlp'\nmodels = [{stages = 2}]", "'stages'"),
        ("tasks = [", "not valid TOML"),
    ],
)
def test_a_wrong_plan_is_one_message_and_leaves_nothing(etude, text, message):
    Path("bad.toml").write_text(text)
    said = etude("study", "bad.toml")
    assert said.code == 2
    assert message in said.err
    assert [p.name for p in Path().iterdir()] == ["bad.toml"]


def test_another_plan_of_the_same_name_is_refused(plan):
    assert plan("study", "rates.toml", "--engine", "loop").code == 0
    Path("rates.toml").write_text(PLAN.replace("points = 3", "points = 2"))
    said = plan("study", "rates.toml", "--engine", "loop")
    assert said.code == 1
    assert "lrs" in said.err


def test_what_is_not_there_is_one_message(etude):
    said = etude("study", "ls")
    assert said.code == 1
    assert "there is no study database 'studies.db'" in said.err
    said = etude("study", "nothing.toml")
    assert said.code == 1
    assert "nothing.toml" in said.err
    assert not Path("studies.db").exists()


def test_a_name_that_is_not_there(plan):
    plan("study", "rates.toml", "--engine", "loop")
    said = plan("study", "show", "rate")
    assert said.code == 2
    assert "did you mean 'rates'" in said.err
