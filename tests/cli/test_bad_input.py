"""Bad input: one clear message that names the value and the fix, no traceback, nothing lost."""

from __future__ import annotations

from pathlib import Path

import pytest

OWN = """
import torch
import torch.nn.functional as F
import etude

x, y = torch.randn(64, 4), torch.randint(0, 3, (64,))

empty = lambda: etude.Task(lambda: torch.nn.Linear(4, 3), (x[:0], y[:0]), loss=F.cross_entropy)
misfit = etude.Task(lambda: torch.nn.Linear(4, 3), (x, y.float()), loss=F.mse_loss)
vector = etude.Task(
    lambda: torch.nn.Linear(4, 3), (x, y), loss=lambda o, t: F.cross_entropy(o, t, reduction="none")
)
wrong_inputs = etude.Task(lambda: torch.nn.Linear(5, 3), (x, y), loss=F.cross_entropy)
fine = etude.Task(lambda: torch.nn.Linear(4, 3), (x, y), loss=F.cross_entropy)
number = 3
"""

WRONG_USE = [
    (["tune", "digits-cmn"], "unknown task 'digits-cmn': did you mean 'digits-cnn'"),
    (["tune", "cancer-mlp", "--optimizer", "adamv"], "did you mean 'adam"),
    (["tune", "cancer-mlp", "--schedule", "cosin()"], "did you mean 'cosine'"),
    (["tune", "cancer-mlp", "--schedule", "__import__('os')"], "unknown schedule"),
    (["tune", "cancer-mlp", "--budget", "0.5"], "budget=0.5 is out of bounds"),
    (["tune", "cancer-mlp", "--budget", "nan"], "budget=nan is out of bounds"),
    (["tune", "cancer-mlp", "--batch-size", "100000"], "larger than the 455 training samples"),
    (["tune", "cancer-mlp", "--with", "widht=3"], "did you mean 'width'"),
    (["tune", "cancer-mlp", "--with", "width"], "write KEY=VALUE"),
    (["tune", "cancer-mlp", "--steps", "3"], "too short to compare"),
    (["train", "cancer-mlp", "--lr", "-1"], "--lr -1.0 is out of bounds: give a number above 0"),
    (["train", "cancer-mlp", "--lr", "nan"], "--lr nan is not finite"),
    (["train", "cancer-mlp", "--set", "optimizer.momentum=2"], "sgd.momentum"),
    (["train", "cancer-mlp", "--batch-size", "many"], "such as 64, or 'all'"),
    (["train", "cancer-mlp", "--batch-size", "1.5"], "--batch-size 1.5 is not a whole number"),
    (["schedule", "cosine()", "--steps", "-3"], "--steps -3 is out of bounds: give a number of at"),
    (["schedule", "cosine(9)", "--lr", "0"], "--lr 0 is out of bounds: give a number above 0"),
    (["schedule", "cosine(9)", "--lr", "nan"], "--lr nan is not finite"),
    (["schedule", "cosine()", "--epochs", "0"], "--epochs 0 is out of bounds"),
    (["schedule", "cosine(-5)"], "cosine(-5): length is -5"),
    (["train", "cancer-mlp", "--set", "clip_nrom=1"], "did you mean 'clip_norm'"),
    (["train", "cancer-mlp", "--steps", "5 parsecs"], "parsecs"),
    (["train", "cancer-mlp", "--device", "abacus"], "abacus"),
    (["tasks", "digit"], "unknown task 'digit'"),
    (["schedule", "cosine("], "cosine("),
    (["schedule", "cosine()", "--steps", "10", "--epochs", "2"], "leave one out"),
    (["schedule", "cosine(10)", "--to", "jax"], "unknown target"),
    (["schedule", "cosine(10)", "--save", "picture.gif"], ".svg, .png or .html"),
    (["schedule", "constant(" * 300 + "1" + ")" * 300], "deep"),
]

FAILED = [
    (["tune", "own.py:empty"], "empty"),
    (["tune", "own.py:misfit"], "does not fit the loss"),
    (["tune", "own.py:vector"], "a loss is one number"),
    (["tune", "own.py:wrong_inputs"], "the model failed on inputs"),
    (["tune", "own.py:number"], "number"),
    (["tune", "missing.py:task"], "missing.py"),
    (["tune", "--resume", "nowhere"], "holds no run to resume"),
]


@pytest.mark.parametrize(("words", "message"), WRONG_USE, ids=lambda v: str(v)[:48])
def test_wrong_use_is_one_message_and_exit_code_2(etude, words, message):
    said = etude(*words)
    assert said.code == 2
    assert message in said.err.replace("\n", " ")
    assert "Traceback" not in said.err
    assert not list(Path().glob("runs/*/"))


@pytest.mark.parametrize(("words", "message"), FAILED, ids=lambda v: str(v)[:48])
def test_what_cannot_work_is_one_message_and_exit_code_1_or_2(etude, words, message):
    Path("own.py").write_text(OWN)
    said = etude(*words)
    assert said.code in (1, 2)
    assert message in said.err.replace("\n", " ")
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr = 0.1\nlerning_rate = 3\n", "unknown field 'lerning_rate'"),
        ("version = 99\nlr = 0.1\n", "upgrade etude"),
        ("lr = = 3\n", "not valid TOML"),
        ("lr = true\n", "not a number"),
        ("schedule = 3\n", "schedule"),
    ],
)
def test_a_bad_recipe_file_is_named_with_its_fault(etude, text, message):
    Path("mine.toml").write_text(text)
    said = etude("train", "cancer-mlp", "--recipe", "mine.toml")
    assert said.code == 2
    assert "mine.toml" in said.err
    assert message in said.err


def test_a_recipe_file_that_is_not_there_is_named(etude):
    said = etude("train", "cancer-mlp", "--recipe", "none.toml")
    assert said.code == 1
    assert "none.toml" in said.err


def test_a_folder_that_holds_a_run_is_never_overwritten(etude):
    assert etude("train", "cancer-mlp", "--steps", "20", "--out", "run").code == 0
    before = Path("run/record.json").read_bytes()
    for verb in ("train", "tune"):
        said = etude(verb, "cancer-mlp", "--steps", "20", "--out", "run")
        assert said.code == 1
        assert "already holds a run" in said.err
    assert Path("run/record.json").read_bytes() == before


def test_a_place_that_cannot_be_written_is_said_before_any_training(etude):
    Path("file").write_text("not a folder")
    said = etude("train", "cancer-mlp", "--out", "file/run")
    assert said.code == 1
    assert "cannot write to the folder" in said.err


def test_resume_refuses_options_that_it_would_ignore(etude):
    assert etude("train", "cancer-mlp", "--steps", "20", "--out", "run").code == 0
    said = etude("train", "--resume", "run", "--lr", "0.3")
    assert said.code == 2
    assert "leave other options out" in said.err


def test_a_run_that_could_not_begin_leaves_no_folder(etude):
    said = etude("train", "cancer-mlp", "--batch-size", "100000")
    assert said.code == 2
    assert not list(Path().glob("runs/*"))
