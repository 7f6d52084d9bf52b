"""`etude edge` and `etude transfer`: for people, for machines, and with wrong input."""

from __future__ import annotations

from pathlib import Path

import pytest

from etude.recipe import Recipe

EDGE = ("edge", "cancer-mlp", "--steps", "64", "--at-most", "32", "--doublings", "2")
TRANSFER = ("transfer", "cancer-mlp", "--set", "steps=64")


@pytest.mark.parametrize("verb", ["edge", "transfer"])
def test_help_with_examples(etude, verb):
    said = etude(verb, "--help")
    assert said.code == 0
    assert "Examples" in said.out
    assert f"etude {verb}" in said.out


def test_edge_for_people(etude):
    said = etude(*EDGE)
    assert said.code == 0
    for word in ("breaks at", "predicted limit", "rate × sharpness = 2 + 2 μ", "Twice the rate"):
        assert word in said.out
    # On a busy machine, lines of progress come at intervals; there is nothing else.
    assert all(line.startswith("cancer-mlp") for line in said.err.splitlines())


def test_edge_for_machines(etude):
    said = etude(*EDGE, "--json", "--marks", "1", "--lr", "0.02")
    assert said.code == 0
    assert said.json["lr"] == 0.02
    assert [p["lr"] for p in said.json["probes"]] == [0.02, 0.04, 0.08]
    assert [s["step"] for s in said.json["sharpness"]] == [0, 32]
    assert said.json["sharpness"][0]["threshold"] == pytest.approx(3.8)


def test_an_optimizer_without_a_threshold_is_told_why(etude):
    said = etude(*EDGE, "--optimizer", "radam", "--marks", "1")
    assert "no threshold is known for radam" in said.out
    said = etude(*EDGE, "--iterations", "0")
    assert "no curvature was measured" in said.out


def test_transfer_for_people_saves_the_recipe_to_use(etude):
    said = etude(*TRANSFER, "--width", "32", "64", "--mup", "--save", "wide.toml")
    assert said.code == 0
    assert "width 32 → 64: lr unchanged" in said.out
    assert "onfirmed" in said.out
    assert "etude train cancer-mlp --with width=64 --recipe wide.toml" in said.out
    assert Recipe.load("wide.toml").lr_mult is not None
    Path("more.toml").write_text(Path("wide.toml").read_text())
    again = etude("transfer", "cancer-mlp", "--recipe", "more.toml", "--batch-size", "64", "--json")
    assert again.json["recipe"]["batch_size"] == 64
    assert again.json["rule_lr"] == pytest.approx(2 * Recipe.load("more.toml").lr)


def test_transfer_takes_the_tuned_size_before_the_new_one(etude):
    tuned = ("--set", "batch_size=32", "--json", "--further", "0", "--share", "0.25")
    said = etude(*TRANSFER, *tuned, "--batch-size", "32", "64")
    assert said.json == etude(*TRANSFER, *tuned, "--batch-size", "64").json
    assert said.json["recipe"]["batch_size"] == 64
    said = etude(*TRANSFER, *tuned, "--batch-size", "16", "64")
    assert said.code == 2
    assert "--batch-size 16 64: the recipe was tuned with batch_size=32" in said.json["error"]
    assert "--set batch_size=16 too" in said.json["error"]
    said = etude(*TRANSFER, *tuned, "--steps", "100", "200")
    assert "--steps 100 200: the recipe was tuned with steps=64" in said.json["error"]
    for typed in ("1.5", "many"):
        said = etude(*TRANSFER, *tuned, "--batch-size", typed)
        assert (said.code, f"--batch-size {typed}: give a whole number" in said.json["error"]) == (
            2,
            True,
        )


def test_transfer_builds_the_bundled_task_at_its_new_size(etude):
    narrow = etude(*TRANSFER, "--depth", "2", "2", "--json", "--further", "0")
    wide = etude(*TRANSFER, "--width", "32", "64", "--json", "--further", "0")
    assert narrow.json["untrained_loss"] != wide.json["untrained_loss"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("edge", "cancer-mlp", "--at-most", "1"), "steps=1 is out of bounds"),
        (("edge", "cancer-mlp", "--samples", "0"), "samples=0 is out of bounds"),
        (("edge", "cancer-mpl"), "did you mean 'cancer-mlp'"),
        (("edge", "cancer-mlp", "--recipe", "none.toml"), "none.toml"),
        (("transfer", "cancer-mlp"), "nothing is to change"),
        ((*TRANSFER, "--width", "32"), "--width"),
        ((*TRANSFER, "--width", "32", "0"), "0"),
        ((*TRANSFER, "--width", "32", "64", "--with", "width=48"), "leave --with out"),
        ((*TRANSFER, "--optimizer", "muon", "--batch-size", "64"), "no rule is known"),
        ((*TRANSFER, "--batch-size", "100000"), "larger than the 455 training samples"),
        ((*TRANSFER, "--steps", "100", "--share", "2"), "share=2"),
    ],
)
def test_wrong_input_is_one_message(etude, words, message):
    said = etude(*words)
    assert said.code in (1, 2)
    assert message in said.err
    assert "Traceback" not in said.err


WORLD = ("transfer", "cancer-mlp", "--set", "steps=256", "--world-size", "1", "4")


def test_transfer_to_more_processes_saves_the_recipe_to_use(etude):
    said = etude(*WORLD, "--further", "0", "--save", "wide.toml")
    assert said.code == 0
    for word in ("the linear rule's rate 0.04", "of the drop", "gradient noise scale"):
        assert word in " ".join(said.out.split())
    saved = Recipe.load("wide.toml")
    assert (saved.steps, saved.batch_size) == (64, 128)


def test_transfer_to_more_processes_for_machines(etude):
    said = etude(*WORLD, "--further", "0", "--json", "--rule", "noise scale")
    assert said.code == 0
    assert said.json["rule"] == "noise scale"
    assert (said.json["before"], said.json["after"]) == (1, 4)
    assert said.json["noise_scale"] > 0
    assert len(said.json["rates"]) in (3, 4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*WORLD, "--batch-size", "32"), "leave --batch-size out"),
        ((*WORLD, "--rule", "cubic"), "unknown rule 'cubic'"),
        ((*TRANSFER, "--rule", "linear"), "--rule chooses a rule for --world-size"),
        (("train", "cancer-mlp", "--compress", "powersdg"), "did you mean 'powersgd'"),
        (("train", "cancer-mlp", "--compress", "topk"), "this run has one process"),
    ],
)
def test_wrong_words_on_several_processes_are_one_message(etude, words, message):
    said = etude(*words)
    assert said.code != 0
    assert message in " ".join(said.err.split())
    assert "Traceback" not in said.err
