"""What a first-time user tries is either done or answered with what to type instead."""

from __future__ import annotations

import importlib.metadata
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.main import get_command

import etude as package
from etude.cli.options.unknown_verb import OTHER_NAMES
from etude.cli.program import app
from etude.optimizers import ROWS
from etude.optimizers.match import match, recommended
from etude.optimizers.row import INSTALL
from etude.recipe import Recipe
from etude.tasks.references.ref import title
from tests.helpers import traits

OWN = """
import torch
import etude

x = torch.linspace(-1, 1, 96)[:, None]


def make(**changes):
    return etude.Task(
        lambda: torch.nn.Linear(1, 1), (x, 3 * x), loss=torch.nn.functional.mse_loss,
        defaults={"steps": 30}, **changes,
    )


task = make()
lines = make()
parabola = make(name="named")
"""
RECIPE = '\nrecipe = etude.Recipe(optimizer="sgd", lr=0.125, steps=20, batch_size=16)\n'


TRAITS = traits(parameters=50_000, matrices=0.95, spread=40.0)


def after(text: str, command: str) -> list[str]:
    """Return the words of the command that a message spells out."""
    return shlex.split(text[text.index(command) :].splitlines()[0])


@pytest.mark.parametrize("words", [("--lr", "0.1"), ("--set", "lr=0.1")])
def test_tune_refuses_a_rate_and_names_the_verb_that_takes_it(etude, words):
    said = etude("tune", "cancer-mlp", *words)
    assert said.code == 2
    assert "`etude tune` searches for the rate" in said.err
    spelt = after(said.err, "etude train")[1:]
    assert etude(*spelt, "--steps", "20", "--out", "run").code == 0
    assert Recipe.load("run/recipe.toml").lr == 0.1
    assert "--lr " not in etude("tune", "--help").out


@pytest.mark.parametrize("name", ROWS)
def test_a_hyperparameter_of_the_optimizer_is_met_with_the_spelling_that_works(etude, name):
    for key in ROWS[name].hyperparameters:
        if key in Recipe.model_fields:
            continue
        said = etude("layerwise", "cancer-mlp", "--optimizer", name, "--set", f"{key}=3")
        assert said.code == 2
        assert f"--set optimizer.{key}=3" in said.err


@pytest.mark.parametrize("change", ["nesterov=true", "momentum = 0.9", "weight_decay=1e-4"])
def test_the_spelling_works_when_it_is_typed(etude, change):
    words = ("layerwise", "cancer-mlp", "--optimizer", "sgd", "--set", "optimizer.momentum=0.5")
    said = etude(*words, "--set", change)
    assert said.code == 2
    spelt = "--set 'optimizer" if " " in change else "--set optimizer"
    assert etude(*words, *after(said.err, spelt)).code == 0


def test_a_hyperparameter_of_another_optimizer_is_met_with_what_this_one_has(etude):
    said = etude("train", "cancer-mlp", "--optimizer", "adamw", "--set", "momentum=0.9")
    assert said.code == 2
    assert "adamw has no momentum; it has betas" in said.err


@pytest.fixture
def bare(monkeypatch):
    """An environment without the packages of the extra."""
    monkeypatch.setattr("etude.optimizers.row.find_spec", lambda name: None)


def test_what_is_not_installed_is_marked_and_never_the_command_to_try(etude, bare):
    table = etude("optimizers").out
    assert table.count("(not installed)") == len([row for row in ROWS.values() if row.package])
    assert INSTALL in table
    said = etude("optimizers", "match", "cancer-mlp", "--top", "99")
    marked = [line for line in said.out.splitlines() if line.endswith("not installed")]
    away = {name for name, row in ROWS.items() if row.package}
    assert {line.split()[1] for line in marked} <= away
    assert marked
    assert INSTALL in said.out
    spelt = after(said.out.replace("[dim]", ""), "etude tune")
    assert spelt[spelt.index("--optimizer") + 1] not in away


def test_where_all_is_installed_nothing_is_marked(etude, monkeypatch):
    monkeypatch.setattr("etude.optimizers.row.find_spec", lambda name: object())
    table = etude("optimizers").out
    assert "not installed" not in table
    assert INSTALL not in table


def test_of_equals_the_installed_comes_first(bare):
    ranked = match(TRAITS)
    assert [one.installed for one in ranked] == [ROWS[one.name].installed for one in ranked]
    for one, after_it in pairwise(ranked):
        assert (one.score, one.installed) >= (after_it.score, after_it.installed)
    assert recommended(ranked).score == max(one.score for one in ranked if one.installed)


def test_the_table_of_optimizers_keeps_to_a_narrow_terminal(etude, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("etude.cli.optimizers.out", Console(highlight=False, width=80))
    lines = etude("optimizers").out.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) < 4 * len(ROWS)
    for name, row in ROWS.items():
        assert any(line.split()[:1] == [name] for line in lines), row


def test_tasks_from_the_hub_are_marked(etude):
    rows = {row["name"]: row["hub"] for row in etude("tasks", "--json").json}
    assert {name for name, hub in rows.items() if hub} == {
        name for name in rows if name.startswith(("mnist", "cifar10", "imagenet"))
    }
    said = etude("tasks").out
    listed = {line.split()[0]: line.split()[-1] for line in said.splitlines() if line.strip()}
    assert all((listed[name] == "hub") == hub for name, hub in rows.items())
    assert "pip install 'etude[hub]'" in said
    assert "pip install 'etude[hub]'" in etude("tasks", "mnist-mlp").out
    assert "hub" not in etude("tasks", "digits-mlp").out


@pytest.mark.parametrize("name", ROWS)
def test_an_optimizer_in_place_of_a_verb_is_met_with_the_verb_that_shows_it(etude, name):
    said = etude("optimizers", name)
    assert said.code == 2
    spelt = after(said.err, "etude optimizers show")[1:]
    assert name in etude(*spelt).out


def test_neither_a_verb_nor_an_optimizer_gets_the_nearest(etude):
    assert "did you mean 'adamw'" in etude("optimizers", "adamww").err


@pytest.mark.parametrize(
    ("rule", "fix"),
    [
        ("head=abc", "write head=3"),
        ("head", "such as head=3"),
        ("=3", "such as head=3"),
        ("head=", "such as head=3"),
    ],
)
def test_a_rule_that_cannot_be_read_is_met_with_one_that_can(etude, rule, fix):
    said = etude("layerwise", "digits-mlp", "--lr-mult", rule)
    assert said.code == 2
    assert fix in said.err
    assert etude("layerwise", "digits-mlp", "--lr-mult", fix.split()[-1]).code == 0


def test_a_gate_that_is_a_layer_of_its_own_is_said_to_be_one(etude):
    said = etude("layerwise", "digits-transformer", "--lr-mult", "*[query]=2")
    assert "Here query is a separate layer: write '*query'" in said.err
    assert etude("layerwise", "digits-transformer", "--lr-mult", "*query=2").code == 0


def test_the_version_is_that_of_the_installed_package(etude):
    version = importlib.metadata.version("etude")
    assert package.__version__ == version
    assert "__version__" in dir(package)
    said = etude("--version")
    assert (said.code, said.out.strip()) == (0, f"etude {version}")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["train", "nope"], 2),
        (["train", "cancer-mlp", "--lr", "abc"], 2),
        (["tune", "cancer-mlp", "--nope"], 2),
        (["tune", "cancer-mlp", "--lr", "0.1"], 2),
        (["schedule", "cosin(3)"], 2),
        (["optimizers", "show", "adamv"], 2),
        (["tasks", "digit"], 2),
        (["train", "missing.py:task"], 1),
        (["nope"], 2),
    ],
    ids=str,
)
def test_a_machine_gets_errors_as_json_and_the_same_code(etude, words, code):
    plain, machine = etude(*words), etude(*words, "--json")
    assert (plain.code, plain.out) == (code, "")
    assert machine.code == code
    assert set(machine.json) == {"error"}
    squeezed = "".join(c for c in machine.err if c.isalnum())  # a box may break its lines
    assert "".join(c for c in machine.json["error"] if c.isalnum())[:40] in squeezed


@pytest.mark.parametrize(
    ("words", "unit"),
    [
        (["cosine(100)"], "step"),
        (["cosine(100)", "--steps", "100"], "step"),
        (["cosine(10)", "--epochs", "10"], "epoch"),
        (["cosine()", "--epochs", "10", "--steps-per-epoch", "5"], "step"),
    ],
)
def test_the_table_of_a_schedule_names_the_unit_it_counts_in(etude, words, unit):
    assert etude("schedule", *words, "--table").out.splitlines()[1].split() == [unit, "value"]


def test_epochs_in_a_schedule_need_their_length_beside_steps(etude):
    said = etude("schedule", "cosine('5 epochs')", "--steps", "20")
    assert said.code == 2
    assert "--steps-per-epoch" in said.err
    known = etude("schedule", "cosine('5 epochs')", "--steps", "20", "--steps-per-epoch", "2")
    assert known.code == 0
    assert etude("schedule", "cosine('5 epochs')", "--epochs", "20").code == 0


def test_the_area_is_shown_to_people_too(etude):
    area = etude("schedule", "cosine(100)", "--lr", "0.3", "--json").json["area"]
    assert f"area under the curve {area:.6g}" in etude("schedule", "cosine(100)", "--lr", "0.3").out


@pytest.mark.parametrize(
    ("reference", "name"),
    [("task", "mine"), ("lines", "lines"), ("parabola", "named"), ("make", "make")],
)
def test_own_tasks_are_called_after_what_they_are_called_in_the_file(etude, reference, name):
    Path("mine.py").write_text(OWN)
    assert etude("layerwise", f"mine.py:{reference}", "--json").json["task"] == name


def test_a_resumed_run_and_its_folder_have_the_name_too(etude):
    Path("mine.py").write_text(OWN)
    said = etude("train", "mine.py:task", "--json").json
    assert said["task"] == "mine"
    assert Path(said["folder"]).name.startswith("mine-")
    assert etude("train", "--resume", said["folder"], "--json").json["task"] == "mine"


def test_the_recipe_beside_a_task_is_used_and_said_and_gives_way_to_a_file(etude):
    Path("mine.py").write_text(OWN + RECIPE)
    beside = Recipe(optimizer="sgd", lr=0.125, steps=20, batch_size=16)
    said = etude("train", "mine.py:task", "--out", "beside")
    assert "The recipe is `recipe` of mine.py." in said.err
    assert Recipe.load("beside/recipe.toml") == beside
    words = ("layerwise", "mine.py:task", "--json")
    assert etude(*words, "--lr", "0.5").json["lr"] == 0.5
    beside.replace(lr=0.25).save("given.toml")
    from_file = etude(*words, "--recipe", "given.toml")
    assert from_file.json["lr"] == 0.25
    assert "recipe` of" not in from_file.err


def test_what_is_called_recipe_but_is_none_is_passed_over(etude):
    Path("mine.py").write_text(f"{OWN}\nrecipe = 'not one'\n")
    said = etude("layerwise", "mine.py:task", "--json")
    assert said.json["lr"] == 1e-3
    assert "The recipe is" not in said.err


@given(st.sampled_from(["", "a/", "../b c/"]), st.sampled_from(["mine", "task", "x_1"]))
def test_a_title_is_the_object_or_its_file(folder, stem):
    assert title(f"{folder}{stem}.py:task") == stem
    assert title(f"{folder}{stem}.py:other") == "other"
    assert title(f"package.{stem}:task") == stem
    assert title(stem) == stem


def test_a_folder_that_is_given_as_a_task_is_called_a_folder(etude, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    for folder in ("mine", "mine/"):
        said = etude("check", folder)
        assert f"'{folder}' is a folder, not a task: give a bundled task" in said.err
        assert "'mine/file.py:task'" in said.err
    (tmp_path / "mine" / "net.py").touch()
    assert "'mine/net.py:task'" in etude("check", "mine").err


def test_a_bundled_task_wins_over_a_folder_of_its_name(etude, tmp_path: Path):
    (tmp_path / "cancer-mlp").mkdir()
    assert etude("check", "cancer-mlp").code == 0


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["lint"], "--lint is an option of `etude schedule`"),
        (["trian"], "did you mean `etude train` or `etude transfer`?"),
        (["Tune"], "did you mean `etude tune`?"),
        (["lr_find"], "did you mean `etude range-test`?"),
        (["sweep"], "did you mean `etude study`?"),
        (["report"], "did you mean `etude study report`?"),
        (["version"], "write `etude --version`"),
        (["mine.py:task"], "if it is a task, write `etude tune mine.py:task`"),
        (["study", "shwo", "rates"], "did you mean `etude study show`?"),
        (["xyzzy"], "unknown verb 'xyzzy': `etude --help` lists all verbs"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_an_unknown_verb_is_met_with_what_to_type(etude, words, meant):
    said = etude(*words)
    assert said.code == 2
    assert said.err.startswith(f"etude: unknown verb {words[-2 if len(words) == 3 else -1]!r}: ")
    assert meant in said.err
    assert "lists all verbs" in said.err
    assert etude(*words, "--json").json["error"] in said.err


def test_other_names_of_verbs_are_names_of_verbs_that_there_are():
    verbs = set(get_command(app).commands)
    assert set(OTHER_NAMES) <= verbs
    assert not verbs & {name for names in OTHER_NAMES.values() for name in names}
