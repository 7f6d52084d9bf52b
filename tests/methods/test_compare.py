"""The ways to choose a rate, side by side: costs, shares and full runs are what they are called."""

from __future__ import annotations

import pytest

import etude
from etude import Recipe
from etude.errors import BadTypeError, BadValueError, UnknownNameError
from etude.methods.compare import Method, compare_methods
from etude.training.train import train
from tests.helpers import data, task

RECIPE = Recipe(optimizer="sgd", lr=0.003, batch_size=16, steps=60, schedule="cosine()")
RATES = [0.01, 0.1, 1.0]


@pytest.fixture(scope="module")
def found():
    given = task(valid=data(60))
    return compare_methods(given, RECIPE, lrs=RATES, engine="loop", progress=False)


def test_each_way_ends_with_a_full_run_at_its_rate(found):
    given = task(valid=data(60))
    assert [one.method for one in found.answers] == list(Method)
    for one in found.answers:
        assert one.loss == train(given, RECIPE.replace(lr=one.lr)).valid_loss
        assert one.cost >= 1.0
    by = {one.method: one for one in found.answers}
    assert by[Method.DEFAULT].lr == RECIPE.lr
    assert by[Method.DEFAULT].cost == 1.0
    assert by[Method.GRID].cost == 3.0
    assert by[Method.FOLDS].cost == pytest.approx(10.0, abs=0.5)
    assert by[Method.TUNER].cost <= 3.0


def test_what_is_missed_is_the_share_of_the_drop_to_the_best_full_run(found):
    best = min(loss for _, loss in found.finished)
    assert {lr for lr, _ in found.finished} >= {*RATES, RECIPE.lr}
    for one in found.answers:
        share = (one.loss - best) / (found.untrained.loss - best)
        assert one.missed == pytest.approx(min(1.0, share))
    assert f"best of {len(found.finished)} full runs" in found.advice()
    assert found.best[1] == best


def test_the_report_names_the_way_that_missed_least(found):
    told = etude.report.present(found)
    least = min(one.missed for one in found.answers)
    assert any(one.missed == least and one.method in told.title for one in found.answers) or (
        "own rate" in told.title or "cross-validation" in told.title
    )
    assert "<html" in etude.report.html(found)


def test_a_way_that_does_not_suit_the_task_is_left_out():
    free = Recipe(optimizer="adadelta", lr=1.0, batch_size=16, steps=30)
    given = task(valid=data(60))
    ways = compare_methods(given, free, lrs=[1.0], budget=1.5, engine="loop", progress=False)
    assert Method.RANGE_TEST not in [one.method for one in ways.answers]


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"methods": ["gird"]}, UnknownNameError, "did you mean 'grid'"),
        ({"methods": []}, BadValueError, "methods is empty"),
        ({"methods": "grid"}, BadTypeError, "give a list"),
        ({"methods": ["range test"], "rule": "x"}, UnknownNameError, "unknown rule"),
        ({"methods": ["tuner"], "budget": 0.5}, BadValueError, "budget"),
        ({"lrs": [0.0]}, BadValueError, "out of bounds"),
    ],
)
def test_bad_input_is_one_message(wrong, error, words):
    with pytest.raises(error, match=words):
        compare_methods(task(), RECIPE, engine="loop", progress=False, **wrong)
