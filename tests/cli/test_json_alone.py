"""With `--json` standard output holds the document and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

LOUD = """
import os, sys
import torch
from etude import Recipe, Task

print("while importing")
os.write(1, b"past Python\\n")
x = torch.linspace(-1, 1, 40)[:, None]


def make():
    print("while building")
    return torch.nn.Linear(1, 1)


def loss(output, target):
    sys.stdout.write("in the loss\\n")
    return torch.nn.functional.mse_loss(output, target)


task = Task(make, (x, 3 * x), loss=loss)
recipe = Recipe(steps=4, batch_size=8, evaluations=1)
wrong = Task(make, (x, 3 * x), loss=lambda a, b: print("failing") or a)
"""


@pytest.fixture
def loud(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("loud.py").write_text(LOUD)


def test_a_task_that_prints_as_a_program(loud):
    words = [sys.executable, "-m", "etude", "train", "loud.py:task", "--json", "--out", "run"]
    run = subprocess.run(words, capture_output=True, text=True, check=True)
    assert json.loads(run.stdout)["task"] == "loud"
    for said in ("while importing", "past Python", "while building", "in the loss"):
        assert said in run.stderr


def test_a_task_that_prints_and_an_error(etude):
    Path("loud.py").write_text(LOUD)
    assert etude("train", "loud.py:task", "--json", "--out", "run").json["status"] == "finished"
    said = etude("train", "loud.py:wrong", "--json")
    assert "a loss is one number" in said.json["error"]
    assert "failing" in said.err
    said = etude("train", "loud.py:task", "--out", "other")
    assert "in the loss" in said.out  # for a person it stays where the task prints it


def test_a_file_without_a_name_lists_its_tasks(etude):
    Path("loud.py").write_text(LOUD)
    said = etude("tune", "loud.py")
    assert said.code == 1
    assert "It has the tasks task, wrong" in said.err
    assert "give 'loud.py:task'" in said.err


@pytest.mark.parametrize(
    ("name", "text"), [("a.toml", ""), ("a.toml", "# nothing\n"), ("a.toml", "version = 1\n"),
                       ("a.json", "{}")]
)  # fmt: skip
def test_an_empty_recipe_file_is_refused(etude, name, text):
    Path(name).write_text(text)
    said = etude("train", "cancer-mlp", "--recipe", name)
    assert said.code == 2
    assert f"{name}: the file has no field of a recipe: give at least one" in said.err


def test_a_folder_in_which_a_run_was_killed_before_it_began_can_be_used(etude):
    steps = ("--steps", "4", "--batch-size", "8")
    assert etude("train", "cancer-mlp", *steps, "--out", "run").code == 0
    for path in sorted(Path("run").rglob("*"), reverse=True):
        if path.name != "task.json":
            path.rmdir() if path.is_dir() else path.unlink()
    Path("run/.recipe.toml.812.tmp").write_text("lr = 0.")
    Path("run/fingerprint.json").write_text("{")
    said = etude("train", "--resume", "run")
    assert "start it again in the same folder" in said.err
    assert etude("train", "cancer-mlp", *steps, "--out", "run").code == 0


def test_a_finished_run_and_a_finished_tuning_go_on(etude):
    steps = ("--steps", "16", "--batch-size", "64")
    assert etude("train", "cancer-mlp", *steps, "--out", "a").code == 0
    more = etude("train", "--resume", "a", "--steps", "24", "--json").json
    assert (more["cost"]["steps"], more["extended"]) == (24, [16])
    said = ("--engine", "loop", "--json")
    assert etude("tune", "cancer-mlp", *steps, "--budget", "1.3", "--out", "b", *said).code == 0
    assert etude("tune", "--resume", "b", "--budget", "2", *said).json["budget"] == 2
    assert "give more" in etude("tune", "--resume", "b", "--budget", "1.3", *said).json["error"]
