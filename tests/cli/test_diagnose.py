"""`etude diagnose`: for people, for machines, and with wrong input."""

from __future__ import annotations

from pathlib import Path

from etude.recipe import Recipe

SHORT = ("diagnose", "cancer-mlp", "--steps", "96")


def test_a_healthy_run_gives_healthy_and_nothing_else(etude):
    said = etude(*SHORT)
    assert said.code == 0
    assert "healthy" in said.out
    assert "what was found" not in said.out.lower()
    assert "Medians" not in said.out


def test_a_rate_that_is_too_low_is_mended_and_the_recipe_is_saved(etude):
    said = etude(*SHORT, "--lr", "1e-9", "--repair", "--save", "mended.toml", "--html", "page.html")
    assert said.code == 1
    for word in ("stalled", "usual rate", "unchanged", "mended.toml", "page.html"):
        assert word in said.out
    assert Recipe.load("mended.toml").lr > 1e-4
    page = Path("page.html").read_text()
    assert "What was found" in page
    assert "Remedies" in page


def test_for_machines(etude):
    said = etude(*SHORT, "--lr", "1e-9", "--json")
    assert said.code == 1
    assert not said.json["healthy"]
    assert said.json["repair"] is None
    assert "stalled" in [found["what"] for found in said.json["findings"]]


def test_wrong_input_is_refused_before_training(etude):
    said = etude(*SHORT, "--save", "mended.toml")
    assert said.code == 2
    assert "give --repair too" in said.err
    assert "--html FILE" in said.err
    said = etude(*SHORT, "--repair", "--budget", "1")
    assert said.code == 2
    assert "at least 2.5" in said.err


OWN = """
import torch
from torch import nn
import etude

x = torch.randn(96, 4, generator=torch.Generator().manual_seed(0))
x[7, 2] = float("nan")
task = etude.Task(lambda: nn.Linear(4, 2), (x, (x[:, 0] > 0).long()),
                  loss=nn.functional.cross_entropy, name="mine")
"""


def test_what_is_certain_is_told_without_a_run(etude):
    Path("mine.py").write_text(OWN)
    said = etude("diagnose", "mine.py:task", "--repair", "--save", "m.toml", "--html", "page.html")
    assert said.code == 1
    for word in ("bad data (certain)", "the first in row 7", "it was not trained"):
        assert word in said.out
    assert "not written: no remedy was tried" in said.out
    assert not Path("m.toml").exists()
    assert "bad data (certain)" in Path("page.html").read_text()
    said = etude("diagnose", "mine.py:task", "--json")
    assert said.code == 1
    assert said.json["verdict"]["cause"] == "bad_data"
    assert said.json["verdict"]["probability"] == 1.0
    assert said.json["findings"][0]["certain"] is True
