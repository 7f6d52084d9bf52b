"""`etude export`: the recipe of a file or of a run, for another program."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import etude as package
from etude.export import TARGETS, export_code
from etude.recipe import Recipe


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    made = Recipe(lr=3e-3, steps=200)
    made.save(Path("recipe.toml"))
    return made


@pytest.mark.parametrize("target", TARGETS)
def test_it_prints_what_the_library_returns(etude, recipe, target):
    nearest = ["--nearest"] if TARGETS[target].curves else []
    said = etude("export", "recipe.toml", "--as", target, *nearest)
    assert said.code == 0
    assert said.out.strip() == export_code(recipe, target, nearest=bool(nearest))


def test_it_writes_a_file_and_a_document(etude, recipe):
    said = etude("export", "recipe.toml", "--as", "optax", "--out", "mine.py", "--json")
    assert said.json == {"target": "optax", "code": export_code(recipe, "optax"), "file": "mine.py"}
    assert Path("mine.py").read_text() == export_code(recipe, "optax") + "\n"
    assert (
        "written to mine.py"
        in etude("export", "recipe.toml", "--as", "optax", "--out", "mine.py").out
    )


def test_the_list_names_every_target(etude):
    assert {row["name"] for row in etude("export", "--list", "--json").json} == set(TARGETS)
    assert all(name in etude("export", "--list").out for name in TARGETS)


def test_a_run_folder_knows_its_length(etude):
    task = package.tasks.get("cancer-mlp")
    record = package.train(task, Recipe(lr=1e-2, steps="1 epoch", batch_size=64), folder="run")
    said = etude("export", "run", "--as", "axolotl", "--json")
    assert f"max_steps: {record.length}" in said.json["code"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "no recipe: give a recipe file (.toml or .json), the folder of a run"),
        (("recipe.toml",), "for which program? Give --as: torch, lambda-lr"),
        (("recipe.toml", "--as", "optx"), "did you mean 'optax'"),
        (
            ("recipe.toml", "--as", "nanogpt"),
            "Allow the difference with --nearest, or use its own: write schedule = "
            '"warmup(10, start=',
        ),
        (("recipe.toml", "--to", "nanogpt"), " in recipe.toml"),
        (
            ("task.py", "--as", "optax"),
            "'task.py' is no recipe: give a recipe file (.toml or .json), the folder of a run or "
            "tuning, or a task as file.py:name",
        ),
        (("nowhere.toml", "--as", "optax"), "nowhere.toml"),
        (("empty", "--as", "optax"), "holds no recipe: give the folder of a run"),
        (("long.toml", "--as", "optax"), "has steps='2 epochs'"),
    ],
)
def test_wrong_input_is_one_message(etude, recipe, words, said):
    recipe.replace(steps="2 epochs").save(Path("long.toml"))
    Path("empty").mkdir()
    done = etude("export", *words, "--json")
    assert done.code == (1 if words[:1] in (("nowhere.toml",), ("empty",)) else 2)
    assert said in done.json["error"]
    assert "nearest=True" not in done.json["error"]
    assert json.loads(done.out)


def test_a_task_gives_the_recipe_beside_it(etude, recipe):
    lines = ["import etude", "task = etude.tasks.get('cancer-mlp')"]
    beside = "recipe = etude.Recipe(lr=3e-3, steps=200)"
    Path("alone.py").write_text("\n".join(lines))
    Path("both.py").write_text("\n".join([*lines, beside]))
    said = etude("export", "both.py:task", "--as", "optax", "--json")
    assert said.json["code"] == export_code(
        recipe, "optax", task=package.tasks.load("both.py:task")
    )
    refused = etude("export", "both.py:task", "--as", "nanogpt", "--json").json["error"]
    assert refused.endswith("in `recipe` of both.py, as Recipe(schedule=...)")
    other = etude("export", "alone.py:task", "--as", "optax", "--steps", "200", "--json")
    assert "learning_rate" in other.json["code"] or "schedule" in other.json["code"]
