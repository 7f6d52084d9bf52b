"""A rate that was left while better: the answer says so first, and what it advises is true."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_wine
from torch import nn, tensor
from torch.nn.functional import cross_entropy

import etude
from etude.cli.tune import show
from etude.report.kinds.tuning import of_tuning
from etude.tuning.larger_budget import STEP, larger_budget
from etude.tuning.search.ladder import LEAST, ladder_for
from etude.tuning.search.seed_budget import least_budget, searched

STEPS = 200


@pytest.fixture(scope="module")
def wine():
    data = load_wine()
    inputs = tensor(data.data).float()
    return etude.Task(
        lambda: nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Linear(32, 3)),
        train=((inputs - inputs.mean(0)) / inputs.std(0), tensor(data.target)),
        valid=0.25,
        loss=cross_entropy,
        metric="accuracy",
    )


@pytest.fixture(scope="module")
def recipe():
    return etude.Recipe(optimizer="adamw", schedule="warmup('5%') >> cosine()", steps=STEPS)


@pytest.fixture(scope="module")
def small(wine, recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuning")
    return etude.tune(wine, recipe, budget=1.3, folder=folder / "run"), folder / "run"


def test_the_answer_begins_with_the_rate_that_was_left_while_better(small):
    best, _ = small
    left = best.left_better
    assert left is not None
    trial = next(t for t in best.trials if t.lr == left.lr)
    assert trial.record.evaluations[-1].loss == left.loss < best.loss
    assert trial.record.cost.steps == left.step < STEPS
    shown = of_tuning(best)
    assert shown.lede.startswith(f"{left.lr:g} was better when it was left, after {left.step} of")
    assert "trains best" not in shown.title
    assert [fact.value for fact in shown.facts[:2]] == [f"{best.lr:g}", f"{left.lr:g}"]


def test_early_stopping_keeps_what_the_advice_says(small, wine, recipe):
    best, _ = small
    left = best.left_better
    assert f"Recipe(early_stopping={left.patience})" in best.advice()
    assert f"which is {left.kept:.4g} or lower" in best.advice()
    given = recipe.replace(lr=left.lr, early_stopping=left.patience)
    record = etude.train(wine, given)
    assert record.valid_loss <= left.kept < best.loss
    assert record.cost.steps <= STEPS


def test_the_larger_budget_is_named_once_with_its_cost_and_follows_what_was_left(small, wine):
    best, folder = small
    assert best.larger_budget.runs == best.plain()["larger_budget"] == 3.0
    assert best.advice().count("udget of 3 pays for") == 1
    assert "larger budget" not in best.advice()
    assert f"({3 - best.cost:.3g} more than it cost)" in best.advice()
    more = etude.tune(wine, folder=folder, resume=True, budget=3.0)
    assert more.cost <= 3
    followed = next(t for t in more.trials if t.lr == best.left_better.lr)
    assert followed.record.cost.steps > best.left_better.step


def test_the_terminal_shows_the_command_that_goes_on(small, capsys):
    best, folder = small
    show(best, folder, folder / "report.html")
    said = capsys.readouterr().out
    assert f"etude tune --resume {folder} --budget 3\n" in said
    assert "none lower than" in " ".join(said.split())


def test_a_tuning_without_such_a_rate_says_nothing_of_it(small, wine, recipe):
    best = etude.tune(wine, recipe.replace(steps=40), budget=1.3, lrs=(0.001, 0.01))
    assert best.left_better is None
    assert "better when it was left" not in of_tuning(best).lede
    assert "Better when left" not in [fact.name for fact in of_tuning(best).facts]


def test_with_folds_the_rate_that_was_left_while_better_is_said(small):
    best = replace(small[0], folds=3, budget=4.0)
    left = best.left_better
    own = best.chosen.record.evaluations[-1]
    trial = next(t for t in best.trials if t.lr == left.lr)
    assert trial.record.evaluations[-1].loss == left.loss < left.final == own.loss
    assert (trial.record.evaluations[-1].step, own.step) == (left.step, left.until)
    assert f"than {left.chosen:g} after {left.until}: its mean loss on the parts" in left.said()
    shown = of_tuning(best)
    assert shown.lede.startswith(f"{left.lr:g} was better when it was left in the folds, after")
    assert f"{left.chosen:g} after {left.until} had" in shown.facts[1].note
    assert left.remedy() == ""  # what early stopping keeps on all data was not seen
    assert replace(best, objective="accuracy").left_better is None


@pytest.mark.parametrize(
    ("factors", "name", "note"),
    [
        ((0.5, 2.0), "At twice or half the rate", "lost at most, interpolated between the rates"),
        ((2.0,), "At twice the rate", "none was followed at half of it or beyond"),
        ((0.25, 1.2), "At half the rate", "none was followed at twice of it or beyond"),
        ((0.8, 1.2), "At twice or half the rate", "extrapolated from the rates followed, which"),
    ],
)
def test_what_is_lost_beside_the_rate_is_said_of_the_side_that_was_followed(
    small, factors, name, note
):
    """A curve's slope near its lowest point says too little of what half the rate loses."""
    best = small[0]
    others = [replace(best.chosen, lr=factor * best.lr) for factor in factors]
    trials = tuple(sorted((best.chosen, *others), key=lambda trial: trial.lr))
    shown = of_tuning(replace(best, trials=trials, sensitivity=0.0154))
    fact = next(fact for fact in shown.facts if "the rate" in fact.name)
    assert (fact.name, fact.value) == (name, "1.54%")
    assert note in fact.note


def test_folds_compare_the_means_over_them(wine, recipe):
    found = etude.tune(wine, recipe.replace(steps=60), budget=4.0, folds=2, engine="loop")
    own = found.chosen.record.evaluations[-1]
    left = [t.record.evaluations[-1].loss for t in found.trials if t is not found.chosen]
    lower = min(left) < own.loss - 0.01 * (found.chosen.record.evaluations[0].loss - own.loss)
    assert (found.left_better is not None) == lower


@given(
    budget=st.floats(LEAST, 30),
    spent=st.floats(0.5, 1),
    length=st.integers(16, 2000),
    seeds=st.sampled_from([1, 2, 3]),
    folds=st.sampled_from([1, 3]),
)
def test_the_larger_budget_pays_for_what_it_says(budget, spent, length, seeds, folds):
    folds = 1 if seeds > 1 else folds
    budget = max(budget, least_budget(seeds), 1.75 if folds > 1 else 0.0)
    found = larger_budget(budget, spent * budget, length, folds=folds, seeds=seeds)
    assert found.runs > budget
    assert found.runs / STEP == round(found.runs / STEP)
    assert found.more == pytest.approx(found.runs - spent * budget)
    if not found.keep:
        assert found.more >= 1 - 1e-9
        return
    ladder = ladder_for(searched(found.runs, seeds), folds, length)
    assert (ladder.rungs[-2].share, ladder.rungs[-2].keep) == (found.share, found.keep)
    assert ladder.cost(folds) <= searched(found.runs, seeds)
    assert ladder_for(searched(budget, seeds), folds, length) != ladder
    before = found.runs - STEP
    assert before <= budget or ladder_for(searched(before, seeds), folds, length) != ladder


def test_without_a_budget_that_is_looked_through_none_is_named():
    assert larger_budget(1000.0, 999.9, 200) is None
    assert not math.isnan(larger_budget(3.0, 2.9, 200).runs)
