"""`etude grid`, `range-test` and `compare-methods`, as a user types them."""

from __future__ import annotations

from pathlib import Path

import pytest

SHORT = ("--steps", "40", "--batch-size", "64")


def test_a_grid_from_start_to_resume(etude):
    said = etude("grid", "cancer-mlp", "--lrs", "1e-4:1e-2:3", *SHORT, "--out", "run")
    assert said.code == 0, said.err
    assert "0.001" in said.out
    assert "3.00 full runs" in said.out
    assert "<html" in Path("run/report.html").read_text()
    again = etude("grid", "--resume", "run", "--json").json
    assert [one["lr"] for one in again["rates"]] == [0.0001, 0.001, 0.01]
    assert again["cost"] == 3.0
    assert "leave other options out" in etude("grid", "--resume", "run", "--seeds", "2").err
    taken = etude("grid", "cancer-mlp", "--out", "run")
    assert taken.code == 1
    assert "already holds a run" in taken.err


def test_a_range_test_with_its_page(etude):
    words = ("range-test", "cancer-mlp", "--repeats", "2", "--updates", "40")
    said = etude(*words, "--report", "ramp.html")
    assert said.code in (0, 1), said.err
    assert "rule" in said.out
    assert "28 tasks" in said.out.replace("\n", " ")
    assert "<html" in Path("ramp.html").read_text()
    told = etude(*words, "--json")
    assert told.json["rule"] == "valley"
    assert len(told.json["ramps"]) == 2
    assert (told.code == 0) == (told.json["lr"] is not None)


def test_methods_side_by_side(etude):
    ways = ("--methods", "default, grid", "--lrs", "0.001,0.01")
    said = etude("compare-methods", "cancer-mlp", *ways, *SHORT)
    assert said.code == 0, said.err
    assert "the recipe's own rate" in said.out
    assert "2.00" in said.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("grid", "cancer-mlp", "--lrs", "a"), "'a' is not a number"),
        (("grid", "cancer-mlp", "--lrs", "1:2"), "LOW:HIGH:COUNT"),
        (("grid", "cancer-mlp", "--lrs", "2:1:3"), "0 < LOW < HIGH"),
        (("grid", "cancer-mlp", "--lrs", "1:2:1"), "COUNT=1 is out of bounds"),
        (("grid", "cancer-mlp", "--lrs", "0.1,0"), "give a rate above 0"),
        (("grid", "cancer-mlp", "--lr", "0.1"), "`etude grid` searches for the rate"),
        (("grid", "--resume", "nowhere"), "nowhere"),
        (("range-test", "cancer-mlp", "--rule", "valey"), "did you mean 'valley'"),
        (("range-test", "cancer-mlp", "--updates", "3"), "give at least 30"),
        (("compare-methods", "cancer-mlp", "--methods", "gird"), "did you mean 'grid'"),
    ],
)
def test_wrong_input_is_one_line(etude, words, message):
    said = etude(*words)
    assert said.code != 0
    assert message in said.err.replace("\n", " ")
    assert "Traceback" not in said.err
    assert not Path("runs").exists() or not list(Path("runs").iterdir())
