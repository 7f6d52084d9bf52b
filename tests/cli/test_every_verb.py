"""What holds for every verb: they are found in the program, so that a new one is tested too."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import etude.cli
from etude.cli.options.recipe_options import RecipeOptions
from etude.cli.program import Program, app, verb_files
from etude.cli.terminal.interrupt import INTERRUPTED

LOUD = """
import os
import torch
from etude import Task

print("while importing")
os.write(1, b"past Python\\n")
x = torch.linspace(-1, 1, 40)[:, None]
wrong = Task(lambda: torch.nn.Linear(1, 1), (x, 3 * x), loss=lambda a, b: print("failing") or a)
"""

HELLO = '''
"""`etude hello`: a verb that nobody listed."""

import typer


def register(app: typer.Typer) -> None:
    app.command("hello")(hello)


def hello(name: str) -> None:
    """Greet NAME."""
    print(f"hello {name}")
'''


def commands(
    group: Any = None, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every verb, and verb of a verb, with the words that call it."""
    for name, command in (group or typer.main.get_command(app)).commands.items():
        yield (*path, name), command
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))


ALL = dict(commands())
OF_TASKS = [path for path, one in ALL.items() if "options" in {p.name for p in one.params}]
"""The verbs that build a task, which may be code of the user's own."""


def ids(path: tuple[str, ...]) -> str:
    return " ".join(path)


each = pytest.mark.parametrize("path", list(ALL), ids=ids)
each_of_tasks = pytest.mark.parametrize("path", OF_TASKS, ids=ids)


def test_every_file_with_a_verb_is_in_the_program():
    folder = Path(etude.cli.__file__).parent
    own = {
        p.stem.replace("_", "-") for p in folder.glob("*.py") if "\ndef register(" in p.read_text()
    }
    assert own == {name for (name, *more) in ALL if not more}
    assert len(OF_TASKS) >= 7


@each
def test_help_has_examples(etude, path):
    said = etude(*path, "--help")
    assert said.code == 0
    assert "Examples" in said.out
    assert f"etude {path[0]}" in said.out


def test_help_names_every_verb_the_first_ones_first(etude):
    said = etude("--help").out
    names = [path[0] for path in ALL if len(path) == 1]
    assert names[:2] == ["tune", "train"]
    assert re.findall(r"^│ (\w[\w-]*) ", said, re.MULTILINE) == names


@each
def test_an_unknown_option_is_one_message(etude, path):
    said = etude(*path, "--no-such-option")
    assert said.code == 2
    assert "--no-such-option" in said.err
    assert "Traceback" not in said.err
    said = etude(*path, "--no-such-option", "--json")
    assert said.code == 2
    assert "--no-such-option" in said.json["error"]


@each_of_tasks
def test_an_unknown_task_is_one_message(etude, path):
    said = etude(*path, "digits-cmn")
    assert said.code == 2
    assert "unknown task 'digits-cmn': did you mean 'digits-cnn'" in said.err.replace("\n", " ")
    assert "unknown task" in etude(*path, "digits-cmn", "--json").json["error"]
    assert not list(Path().iterdir())


@each_of_tasks
def test_with_json_a_task_that_prints_leaves_the_document_alone(etude, path):
    Path("loud.py").write_text(LOUD)
    said = etude(*path, "loud.py:wrong", "--json")
    assert isinstance(said.json, dict)
    assert "while importing" in said.err


@each_of_tasks
def test_ctrl_c_is_one_line(etude, path, monkeypatch):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("etude.tasks.load", stop)
    said = etude(*path, "cancer-mlp")
    assert said.code == INTERRUPTED
    text = "interrupted"
    if len(path) == 1 and "resume" not in {one.name for one in ALL[path].params}:
        text = "interrupted; nothing was saved: to begin again, give the same command"
    assert said.err.strip() == f"etude: {text}"
    said = etude(*path, "cancer-mlp", "--json")
    assert (said.code, said.json) == (INTERRUPTED, {"error": text})


# ---- the options of a recipe ----------------------------------------------------------------


@each_of_tasks
def test_every_verb_that_trains_takes_the_same_options(path):
    taken = {p.name for p in ALL[path].params}
    wanted = set(RecipeOptions.__dataclass_fields__)
    # `tune` looks for the rate, and refuses one in words; `match` chooses optimizer and rate.
    left = {
        ("optimizers", "match"): {
            "lr", "optimizer", "schedule", "steps", "weight_decay", "lr_mult",
        },
    }.get(path, set())  # fmt: skip
    assert wanted - left <= taken


def test_an_option_has_one_help_text():
    texts: dict[str, set[str]] = {}
    for path in OF_TASKS:
        for one in ALL[path].params:
            if one.name in RecipeOptions.__dataclass_fields__ and not one.hidden:
                texts.setdefault(one.name, set()).add(one.help)
    several = {name for name, said in texts.items() if len(said) > 1}
    assert several <= {"lr", "steps", "batch_size"}  # `edge` and `transfer` mean more by them


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--lr", "nan", "is not finite"),
        ("--lr", "-1", "above 0"),
        ("--optimizer", "adamv", "did you mean 'adam"),
        ("--schedule", "cosin()", "did you mean 'cosine'"),
        ("--steps", "5 parsecs", "parsecs"),
        ("--batch-size", "0", "out of bounds"),
        ("--weight-decay", "-1", "out of bounds"),
        ("--lr-mult", "*[forgot]=3", "forgot"),
    ],
)
def test_an_error_names_the_option(etude, option, value, words):
    said = etude("layerwise", "cancer-mlp", option, value)
    assert said.code == 2
    assert option in said.err
    assert words in said.err.replace("\n", " ")


def test_weight_decay_is_the_optimizers_own(etude):
    words = ("train", "cancer-mlp", "--steps", "4", "--batch-size", "64", "--json")
    said = etude(*words, "--weight-decay", "0.125", "--out", "run").json
    assert said["recipe"]["optimizer"]["weight_decay"] == 0.125
    other = etude(*words, "--set", "optimizer.weight_decay=0.125", "--out", "other").json
    assert other["recipe"] == said["recipe"]
    assert other["evaluations"] == said["evaluations"]
    twice = etude(*words, "--weight-decay", "1", "--set", "optimizer.weight_decay=2")
    assert "--weight-decay sets it too" in twice.err
    none = etude("layerwise", "cancer-mlp", "--optimizer", "lbfgs", "--weight-decay", "0.1")
    assert "unknown hyperparameter of lbfgs 'weight_decay'" in none.err


def test_multipliers_are_options_of_training(etude):
    words = ("train", "cancer-mlp", "--steps", "4", "--batch-size", "64", "--json")
    said = etude(*words, "--lr-mult", "*.bias=2", "--lr-mult", "decay(0.5)", "--out", "run").json
    assert said["recipe"]["lr_mult"] == {"@policy": "decay(0.5)", "*.bias": 2.0}


# ---- a verb is one file ---------------------------------------------------------------------


def test_a_new_file_is_a_verb(tmp_path, monkeypatch):
    (tmp_path / "hello.py").write_text(HELLO)
    (tmp_path / "helper.py").write_text('"""No verb."""\n')
    monkeypatch.setattr(etude.cli, "__path__", [*etude.cli.__path__, str(tmp_path)])
    files = verb_files()
    assert files[-1].__name__ == "etude.cli.hello"  # it names no place
    assert "etude.cli.helper" not in [one.__name__ for one in files]
    program = typer.Typer(cls=Program)
    for one in files:
        one.register(program)
    runner = CliRunner()
    assert "Greet NAME" in runner.invoke(program, ["--help"]).output
    assert runner.invoke(program, ["hello", "world"]).output == "hello world\n"


def test_help_of_every_verb_loads_nothing_heavy():
    code = f"""
import sys
from typer.testing import CliRunner
from etude.cli.program import app
for path in {[list(path) for path in ALL]!r}:
    assert CliRunner().invoke(app, [*path, "--help"]).exit_code == 0
print([m for m in ("torch", "plotly", "PIL", "sklearn") if m in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout.replace("'", '"')) == []
