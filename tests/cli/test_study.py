"""`etude study`: from a file to a page, a second time, and with wrong input."""

from __future__ import annotations

import csv
import io
import shlex
from pathlib import Path

import pytest

from etude.storage.study import StudyDatabase
from etude.studies.groups import GroupTrainer

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


def test_options_are_the_plan_that_a_file_gives(etude):
    Path("rates.toml").write_text(PLAN)
    words = ["--tasks", "cancer-mlp", "--lrs", "0.001:0.1:3", "--seeds", "0:1", "--steps", "8"]
    typed = etude("study", "rates", *words, "--engine", "loop")
    assert typed.code == 0
    assert "6 of 6 trials done" in typed.out
    # The file is the same plan, so that it trains nothing more.
    assert etude("study", "rates.toml", "--engine", "loop").out == typed.out
    assert etude("study", "run", "rates", *words, "--engine", "loop").out == typed.out


def test_options_take_several_words_or_commas_and_tables(etude):
    said = etude(
        "study",
        "two",
        "--tasks",
        "cancer-mlp",
        "diabetes-mlp",
        "--models",
        "depth=1",
        "{depth = 2, width = 8}",
        "--optimizers",
        "adam,{name = 'sgd', momentum = 0.9}",
        "--schedules",
        "constant(),warmup('5%') >> cosine()",
        "--lrs",
        "adam=0.001",
        "sgd=0.01,0.1",
        "--clips",
        "none",
        "1.0",
        "--steps=3",
        "--set",
        "label_smoothing=none",
        "--engine",
        "loop",
        "--json",
    )
    assert said.code == 2  # label_smoothing is no number
    assert "label_smoothing" in said.json["error"]
    words = (
        "study two --tasks cancer-mlp --models depth=1 depth=2,width=8 --steps=3 --optimizers "
        "adam,sgd --lrs adam=0.001 sgd=0.01,0.1 --clips none 1.0 --engine loop --json"
    )
    said = etude(*words.split())
    trials = said.json["trials"]
    assert len(trials) == 2 * (1 + 2) * 2
    assert {one["clip_norm"] for one in trials} == {None, 1.0}
    assert {one["options"] for one in trials} == {"depth=1", "depth=2, width=8"}


def test_options_replace_keys_of_a_file_and_of_a_preset(plan):
    said = plan("study", "rates.toml", "--seeds", "5", "--engine", "loop", "--json")
    assert {one["seed"] for one in said.json["trials"]} == {5}
    words = "study mine --preset width --tasks cancer-mlp --models width=8 --lrs 0.01 --steps 2"
    said = plan(*words.split(), "--seeds", "0", "--engine", "loop", "--json")
    assert said.json["name"] == "mine"
    assert len(said.json["trials"]) == 2  # both parametrisations


def test_halving_is_an_option(etude):
    words = "study halved --tasks cancer-mlp --lrs 1e-4:1:4 --steps 8 --halving 2 --engine loop"
    said = etude(*words.split(), "--json")
    assert [one["stopped_at"] for one in said.json["trials"]].count(None) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--lrs 0.1", "no plan: give FILE.toml, --preset, or a name and options"),
        ("rates --lrs 0.1", "tasks is missing: give it"),
        ("rates --tasks cancer-mlp --lrs 0", "lr=0 is out of bounds"),
        ("rates --tasks cancer-mlp --lrs nan", "lr=nan is not finite"),
        ("rates --tasks cancer-mlp --lrs 1e-3:1", "is no range: give from, to, and either"),
        ("rates --tasks cancer-mlp --lrs 1e-3:1:3 0.1", "give one range FROM:TO:POINTS, or values"),
        ("rates --tasks cancer-mlp --lrs adam=", "write OPTIMIZER=RATES"),
        ("rates --tasks cancer-mlp --lrs fast", "lr='fast' is not a number"),
        ("rates --tasks cancer-mlp, --lrs 0.1", "has an empty value: leave it out"),
        ("rates --tasks cancer-mlp --models depth", "--models 'depth': write KEY=VALUE"),
        ("rates --tasks cancer-mlp --models {depth", "is not a TOML table"),
        ("rates --tasks cancer-mlp --models stages=2", "'stages'"),
        ("rates --tasks cancer-mlp --halving 5", "halving=5 is out of bounds: give 2, 3 or 4"),
        ("rates --tasks cancer-mlp --set lr=1", "recipe.lr: give lrs"),
        ("--preset archi", "unknown preset 'archi'"),
        ("x.toml --preset width", "give a file or a preset"),
    ],
)
def test_wrong_options_are_one_message_and_leave_nothing(etude, words, message):
    said = etude("study", *words.split())
    assert said.code == 2
    assert message in said.err
    assert not list(Path().iterdir())


def test_a_mistyped_verb_is_not_taken_for_a_study(etude):
    said = etude("study", "shwo", "rates")
    assert said.code == 2
    assert "shwo" in said.err


def test_a_mistyped_format_of_an_export_is_one_line(etude):
    said = etude("study", "export", "cvs", "rates")
    assert said.code == 2
    assert said.err == (
        "etude: unknown verb 'cvs': did you mean `etude study export csv`? `etude study export "
        "--help` lists all verbs\n"
    )


TWO_GROUPS = PLAN.replace('["cancer-mlp"]', '["cancer-mlp", "diabetes-mlp"]')


def numbers(etude, storage: str) -> list[tuple[str, str, str]]:
    rows = csv.DictReader(
        io.StringIO(etude("study", "export", "csv", "two", "--storage", storage).out)
    )
    return [(row["number"], row["state"], row["loss"]) for row in rows]


def test_an_interrupted_study_says_what_is_stored_and_goes_on_to_the_same_numbers(
    etude, monkeypatch
):
    Path("two.toml").write_text(TWO_GROUPS)
    assert etude("study", "two.toml", "--engine", "loop", "--storage", "whole.db").code == 0
    train, calls = GroupTrainer.train, []

    def stopped(self, trials):
        calls.append(trials)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(self, trials)

    words = ("study", "two.toml", "--engine", "loop", "--storage", "a b.db")
    with monkeypatch.context() as patch:
        patch.setattr(GroupTrainer, "train", stopped)
        said = etude(*words)
    assert said.code == 130
    told, _, command = said.err.strip().partition(". Go on with: ")
    assert told == "etude: interrupted; 6 of 12 trials are stored"
    assert shlex.split(command) == [
        *("etude", "study", "resume", "two", "--storage", "a b.db", "--engine", "loop")
    ]
    assert [state for _, state, _ in numbers(etude, "a b.db")] == ["done"] * 6 + ["waiting"] * 6
    assert etude(*shlex.split(command)[1:]).code == 0
    assert numbers(etude, "a b.db") == numbers(etude, "whole.db")


@pytest.mark.parametrize("verb", ["show", "report", "resume", "ls", "export csv"])
def test_an_empty_file_is_no_study_database_and_stays_empty(etude, verb):
    Path("empty.db").touch()
    name = [] if verb == "ls" else ["rates"]
    said = etude("study", *verb.split(), *name, "--storage", "empty.db")
    assert said.code == 1
    assert "the study database 'empty.db' is an empty file: name another" in said.err
    assert not Path("empty.db").stat().st_size


def test_a_database_without_studies_says_so(plan):
    plan("study", "rates.toml", "--engine", "loop")
    with StudyDatabase("studies.db") as database:
        database.delete("rates", force=True)
    said = plan("study", "show", "rates")
    assert said.code == 2
    assert "unknown study 'rates': '" in said.err
    assert "studies.db' holds no study; name another database, or start a study" in said.err
