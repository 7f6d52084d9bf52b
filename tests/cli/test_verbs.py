"""What each verb prints, for people and for machines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from etude.recipe import Recipe
from etude.record import Record
from etude.tuning.result import TuneResult

QUICK = ("cancer-mlp", "--steps", "64")

OWN = """
import torch
import etude

x = torch.linspace(-1, 1, 96)[:, None]
task = etude.Task(
    lambda: torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)),
    (x, x**2), loss=torch.nn.functional.mse_loss, name="parabola",
    defaults={"steps": 48, "batch_size": 16},
)

def make(width=4):
    return etude.Task(lambda: torch.nn.Linear(1, 1), (x, width * x),
                      loss=torch.nn.functional.mse_loss, defaults={"steps": 48})
"""


STILL = """
import torch
import etude

x = torch.ones(64, 2)
task = etude.Task(lambda: torch.nn.Linear(2, 1), (x, x[:, :1]),
                  loss=lambda o, t: 1 + 0 * (o - t).mean(), defaults={"steps": 32})
"""


def test_when_nothing_trains_no_rate_is_recommended(etude):
    Path("mine.py").write_text(STILL)
    said = etude("tune", "mine.py:task", "--out", "run")
    assert said.code == 1
    assert "came to the end of its run better than untrained" in said.out.replace("\n", " ")
    assert "learning rate" not in said.out
    assert "optimizer =" not in said.out


def test_help_shows_the_defaults_it_speaks_of(etude):
    assert "(default: 3.0)" in etude("tune", "--help").out.replace("\n", " ")


def test_tune_prints_what_the_readme_promises(etude):
    said = etude("tune", *QUICK, "--out", "run")
    assert said.code == 0, said.err
    promises = ("learning rate", "may be as good", "broke training", "cost", "validation accuracy")
    for promised in promises:
        assert promised in said.out
    assert "torch.optim.SGD(model.parameters()" in said.out
    assert "report.html" in said.out
    assert "Traceback" not in said.err


def test_tune_fills_the_run_folder(etude):
    assert etude("tune", *QUICK, "--out", "run").code == 0
    folder = Path("run")
    names = {path.name for path in folder.iterdir()}
    promised = {"recipe.toml", "record.json", "series.safetensors", "model.safetensors"}
    assert promised | {"report.html", "tuning.json", "task.json", "notes.json", "trials"} == names
    best = TuneResult.load(folder)
    assert Recipe.load(folder / "recipe.toml") == best.recipe
    assert best.record.status == "finished"
    assert set(load_file(folder / "model.safetensors")) == {
        f"{layer}.{part}" for layer in _layers(folder) for part in ("weight", "bias")
    }
    assert "<html" in (folder / "report.html").read_text()[:200]


def _layers(folder: Path) -> set[str]:
    return {name.rpartition(".")[0] for name in load_file(folder / "model.safetensors")}


def test_tune_json_is_one_document_with_the_promised_fields(etude):
    said = etude("tune", *QUICK, "--json")
    assert said.code == 0, said.err
    assert {"lr", "tied", "stable_below", "cost", "metric", "folder", "report"} <= said.json.keys()
    assert said.json["tied"][0] <= said.json["lr"] <= said.json["tied"][1]
    assert 0 < said.json["cost"] <= 3.0
    assert Path(said.json["report"]).is_file()


def test_runs_without_a_folder_named_get_their_own(etude):
    first = etude("tune", *QUICK, "--json").json["folder"]
    second = etude("tune", *QUICK, "--json").json["folder"]
    assert first != second
    assert Path(first).parent == Path("runs")


def test_a_task_in_the_users_file_is_tuned(etude):
    Path("mine.py").write_text(OWN)
    said = etude("tune", "mine.py:task", "--budget", "1.5", "--json", "--out", "own")
    assert said.code == 0, said.err
    assert said.json["task"] == "parabola"
    # The folder remembers the file, wherever one stands.
    assert json.loads(Path("own/task.json").read_text())["reference"].endswith("mine.py:task")


def test_options_reach_a_task_in_the_users_file(etude):
    Path("mine.py").write_text(OWN)
    said = etude("train", "mine.py:make", "--with", "width=7", "--lr", "0.5", "--out", "own")
    assert said.code == 0, said.err
    weight = load_file("own/model.safetensors")["weight"]
    assert torch.allclose(weight, torch.tensor([[7.0]]), atol=1.0)


def test_train_writes_a_record_and_resumes_a_finished_run_without_training_again(etude):
    said = etude("train", *QUICK, "--lr", "0.05", "--out", "run", "--json")
    assert said.code == 0, said.err
    assert said.json["status"] == "finished"
    assert Record.load("run").recipe.lr == 0.05
    again = etude("train", "--resume", "run", "--json")
    assert again.code == 0, again.err
    assert again.json["cost"]["steps"] == said.json["cost"]["steps"]
    assert again.json["evaluations"] == said.json["evaluations"]


def test_tune_resumed_after_its_end_says_the_same(etude):
    first = etude("tune", *QUICK, "--out", "run", "--json").json
    again = etude("tune", "--resume", "run", "--json").json
    assert {k: v for k, v in again.items() if k != "report"} == {
        k: v for k, v in first.items() if k != "report"
    }


def test_set_reaches_fields_and_the_optimizers_own(etude):
    said = etude(
        "train", *QUICK, "--set", "optimizer.momentum=0.5", "--set", "clip_norm=1", "--out", "run"
    )
    assert said.code == 0, said.err
    recipe = Recipe.load("run/recipe.toml")
    assert recipe.optimizer.hyperparameters == {"momentum": 0.5}
    assert recipe.clip_norm == 1.0


def test_the_precision_of_a_recipe_is_an_option(etude):
    found = etude("train", "cancer-mlp", "--steps", "4", "--precision", "bfloat16", "--json")
    assert json.loads(found.out)["recipe"]["precision"] == "bfloat16"
    refused = etude("train", "cancer-mlp", "--precision", "half")
    assert refused.code == 2
    assert "--precision half: unknown precision 'half': did you mean 'float16'?" in refused.err


def test_a_recipe_file_is_used(etude):
    Recipe(optimizer="rmsprop", lr=2e-3, steps=40, batch_size=16).save("mine.toml")
    assert etude("train", "cancer-mlp", "--recipe", "mine.toml", "--out", "run").code == 0
    assert Recipe.load("run/recipe.toml") == Recipe.load("mine.toml")


def test_a_diverged_run_is_said_and_fails(etude):
    said = etude("train", "diabetes-mlp", "--lr", "1e6", "--steps", "40", "--out", "run")
    assert said.code == 1
    assert "diverged" in said.out
    assert Record.load("run").status == "diverged"


def test_tasks_lists_every_row_and_shows_one(etude):
    names = [row["name"] for row in etude("tasks", "--json").json]
    assert len(names) == len(set(names)) >= 16
    listing = etude("tasks").out
    assert all(name in listing for name in names)
    one = etude("tasks", "digits-cnn")
    assert "activation" in one.out
    assert "--with" in one.out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        # The four worked exercises of the schedules' documentation.
        (["step(10, 0.5)", "--epochs", "30"], {0: 0.1, 10: 0.05, 20: 0.025, 30: 0.0125}),
        (["cosine(50, floor=0.01)", "--epochs", "10"], {0: 0.1, 10: 0.09054634122}),
        (["polynomial(50, power=2)", "--epochs", "10"], {0: 0.1, 1: 0.09604, 10: 0.064}),
        (["exponential(0.95)", "--epochs", "10"], {0: 0.1, 1: 0.095, 10: 0.0598736939}),
    ],
)
def test_worked_exercises_come_out_as_tables(etude, words, expected):
    said = etude("schedule", *words, "--lr", "0.1", "--table", "--rows", "0", "--json")
    values = {row["step"]: row["lr"] for row in said.json["values"]}
    for step, value in expected.items():
        assert values[step] == pytest.approx(value, rel=1e-9)
    table = etude("schedule", *words, "--lr", "0.1", "--table", "--rows", "0").out
    assert f"{expected[10]:.8g}" in table


def test_schedule_lint_fails_on_a_fault_and_passes_without(etude):
    bad = etude("schedule", "linear(500)", "--steps", "1000", "--lint")
    assert bad.code == 1
    good = etude("schedule", "warmup('5%') >> cosine()", "--steps", "1000", "--lint")
    assert good.code == 0
    assert "no likely mistake found" in good.out


def test_schedule_diff_says_what_differs(etude):
    said = etude(
        "schedule", "warmup(100) >> cosine()", "--steps", "900", "--diff", "warmup(50) >> cosine()"
    )
    assert "warmup is 50, was 100" in said.out
    same = etude("schedule", "cosine(10)", "--diff", "cosine(10)")
    assert "no difference" in same.out


@pytest.mark.parametrize("suffix", [".svg", ".png", ".html"])
def test_schedule_is_drawn_into_a_file(etude, suffix):
    said = etude("schedule", "warmup(10) >> cosine(90)", "--save", f"picture{suffix}")
    assert said.code == 0, said.err
    content = Path(f"picture{suffix}").read_bytes()
    assert {".svg": b"<svg", ".png": b"\x89PNG", ".html": b"<!doctype"}[suffix] == content[:4] or (
        suffix == ".html" and content.startswith(b"<!doctype html>")
    )


@pytest.mark.parametrize(
    "text", ["plateau()", "warmup(5) >> plateau(mode='max')", "hypergradient()"]
)
def test_a_schedule_that_reacts_is_translated_only_where_it_can_hear(etude, text):
    said = etude("schedule", text, "--steps", "50", "--to", "torch")
    assert "call scheduler.step(metric) after each update" in said.out
    for peer in ("keras", "optax"):
        said = etude("schedule", text, "--steps", "50", "--to", peer)
        assert said.code != 0
        shown = " ".join(said.err.replace("│", " ").split())
        assert f"reacts to a metric, and {peer} calls a schedule with the step" in shown
        assert "--to torch prints a scheduler with step(metric)" in shown


@pytest.mark.parametrize("peer", ["torch", "keras", "optax"])
def test_schedule_is_translated_into_code_that_compiles(etude, peer):
    code = etude("schedule", "cosine(100)", "--lr", "0.1", "--to", peer, "--json").json["code"]
    compile(code, peer, "exec")
    assert "0.1 * cosine(100)" in code
