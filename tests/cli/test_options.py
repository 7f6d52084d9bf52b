"""What other programs call an option is met with ours; whole numbers are read as people write."""

from __future__ import annotations

import json

import pytest

from etude.cli.options.unknown_option import FIELDS, OTHER_NAMES
from etude.cli.options.whole_numbers import digits
from etude.recipe import Recipe

MEANT = [
    (["train", "cancer-mlp", "--learning-rate", "0.1"], "write --lr 0.1"),
    (["train", "cancer-mlp", "--learning_rate=0.1"], "write --lr 0.1"),
    (["train", "cancer-mlp", "--epochs", "7"], "write --steps '7 epochs'"),
    (["train", "cancer-mlp", "--batch", "32"], "write --batch-size 32"),
    (["train", "cancer-mlp", "--batch_size", "32"], "write --batch-size 32"),
    (["train", "cancer-mlp", "--output", "here"], "write --out here"),
    (["tune", "cancer-mlp", "--budget-runs", "3"], "write --budget 3"),
    (["tune", "cancer-mlp", "--learning-rate", "3"], "looks for the rate itself: leave it out"),
    (["train", "cancer-mlp", "--momentum", "0.9"], "write --set optimizer.momentum=0.9"),
    (["train", "cancer-mlp", "--grad-clip", "1"], "write --set clip_norm=1"),
    (["train", "cancer-mlp", "--clip-norm", "1"], "write --set clip_norm=1"),
    (["train", "cancer-mlp", "--optmizer", "sgd"], "did you mean --optimizer?"),
    (["train", "cancer-mlp", "--fp16"], "write --precision float16"),
    (["train", "cancer-mlp", "--gpus", "2"], "write --device cuda"),
]


@pytest.mark.parametrize(("words", "message"), MEANT, ids=lambda v: str(v)[:48])
def test_an_unknown_option_is_met_with_what_is_meant(etude, words, message):
    said = etude(*words)
    assert said.code == 2
    assert f"unknown option {words[2].partition('=')[0]}: " in said.err
    assert message in said.err
    assert f"etude {words[0]} --help` lists all options" in said.err


@pytest.mark.parametrize("typed", ["--foo", "--layer", "--keep"])
def test_no_option_is_proposed_that_has_little_in_common(etude, typed):
    said = etude("train", "cancer-mlp", typed, "1")
    assert "did you mean" not in said.err
    assert f"unknown option {typed}: `" in said.err


def test_with_json_the_message_is_json(etude):
    said = etude("train", "cancer-mlp", "--epochs", "7", "--json")
    assert said.code == 2
    assert "write --steps '7 epochs'" in json.loads(said.out)["error"]


def test_every_name_is_listed_once_and_every_field_exists():
    names = [name for names in OTHER_NAMES.values() for name in names]
    assert len(names) == len(set(names))
    assert not set(names) & set(OTHER_NAMES)
    assert set(FIELDS) <= set(Recipe.model_fields)


@pytest.mark.parametrize("words", [("--steps", "1e1"), ("--set", "steps=1e1")])
def test_a_whole_number_may_have_an_exponent(etude, words):
    said = etude("train", "cancer-mlp", *words, "--batch-size=1.6e1", "--seed", "2.0", "--out", "r")
    assert said.code == 0
    recipe = Recipe.load("r/recipe.toml")
    assert (recipe.steps, recipe.batch_size, recipe.seed) == (10, 16, 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--batch-size", "1.5"), "give a whole number of at least 1, such as 64, or 'all'"),
        (("--batch-size", "1e-3"), "give a whole number of at least 1, such as 64, or 'all'"),
        (("--seed", "many"), "give a whole number of at least 0, such as 1"),
        (("--steps", "1.5"), "give a whole number, such as 1000, or text such as '20 epochs'"),
        (("--steps", "1.5"), "etude: --steps 1.5: give"),
        (("--lr-mult", "*=-1"), "etude: --lr-mult: the multiplier of '*' is -1.0: give a finite"),
        (("--steps", "1e999"), "--steps"),
        (("--batch-size", "1e99999999999"), "is not a whole number"),
    ],
)
def test_what_is_not_whole_is_met_with_value_bound_and_fix(etude, words, message):
    said = etude("train", "cancer-mlp", *words)
    assert said.code == 2
    assert message in said.err
    assert words[1].removeprefix("*=") in said.err


def test_digits_are_exact():
    assert digits("123456789012345678901e2") == "12345678901234567890100"
    assert digits("1e3 epochs") == "1e3 epochs"


def test_a_batch_may_be_the_whole_training_data(etude):
    said = etude("train", "cancer-mlp", "--steps", "2", "--batch-size", "all", "--out", "r")
    assert said.code == 0
    assert Recipe.load("r/recipe.toml").batch_size == "all"
