"""`tune(lr_range=...)` and `tune(lrs=...)`: what is tried, what is said, what a folder keeps."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

import etude
from etude import TuneResult, report
from etude.errors import BadValueError
from etude.report import present
from etude.tuning.search.allowed_rates import AllowedRates
from tests.tuning.common import BASE, facts, quick, same, task

LISTED = [0.001, 0.00317, 0.01, 0.0317123]


def tried(best: TuneResult) -> list[float]:
    return [trial.lr for trial in best.trials]


@pytest.fixture(scope="module")
def free() -> TuneResult:
    return quick(task(), engine="loop")


def test_a_range_that_holds_all_that_was_tried_changes_nothing(free):
    wide = quick(task(), lr_range=(1e-9, 1e3), engine="loop")
    found, before = facts(wide), facts(free)
    assert found.pop("lr_range") == [1e-9, 1e3]
    assert before.pop("lr_range") is None
    assert found == before


def test_it_says_when_the_best_lies_at_the_bound(free):
    low, high = free.lr / 100, free.lr / 10
    best = quick(task(), lr_range=(low, high), engine="loop")
    assert all(low <= lr <= high for lr in tried(best))
    assert low <= best.tied[0] <= best.lr <= best.tied[1] <= high
    assert best.at_bound == high
    assert best.outcome == "at an edge"
    said = f"The best rate lies at {high:g}, the highest that lr_range allows"
    assert best.advice().startswith(said)
    assert "Give a wider range" in best.advice()
    assert "larger budget" not in best.advice().partition(".")[0]
    assert best.plain()["at_bound"] == high
    drawn = present(best)
    assert any(fact.name == "Rates allowed" and "at a bound" in fact.note for fact in drawn.facts)


def test_a_rate_next_to_a_bound_lies_at_it_where_nothing_between_was_tried(free):
    bound = 1.1 * free.lr
    allowed = AllowedRates.of((free.lr / 100, bound))
    below = tuple(trial for trial in free.trials if trial.lr <= free.lr)
    best = replace(free, allowed=allowed, trials=below)
    assert best.at_bound == bound
    assert f"The best rate lies at {free.lr:g}, next to {bound:g}, the highest" in best.advice()
    tried = replace(best, trials=(*below, replace(below[-1], lr=bound)))
    assert tried.at_bound is None
    assert "lies at" not in tried.advice()


def test_a_range_without_a_good_rate_is_said_beside_what_a_constant_gives():
    """It was said to be a fault of the data, whose good rates the range left out."""
    best = quick(task(), budget=1.5, lr_range=(1.0, 100.0), engine="loop")
    assert best.outcome == "no better than a constant"
    assert "The best rate lies at 1, the lowest that lr_range allows" in best.advice()
    assert "Give a wider range to find out" in best.advice()


def test_a_list_is_all_that_is_tried(free):
    best = quick(task(), lrs=LISTED, engine="loop")
    assert set(tried(best)) <= set(LISTED)
    assert best.lr in LISTED
    assert best.plain()["lrs"] == LISTED
    assert LISTED[0] <= best.tied[0] <= best.tied[1] <= LISTED[-1]
    # No rate lies between two of the list: none is missing there.
    assert best.confidence is None or 0 < best.confidence <= 1


def test_a_small_budget_stays_inside_too():
    for budget in (1.2, 1.5, 1.75):
        best = quick(task(), budget=budget, lr_range=(1e-3, 2e-3), engine="loop")
        assert all(1e-3 <= lr <= 2e-3 for lr in tried(best))
        assert best.cost <= budget


@pytest.mark.slow
def test_a_choice_of_recipes_stays_inside_too():
    over = {"optimizer": ["adamw", "sgd"]}
    best = quick(task(), over=over, lrs=LISTED, engine="loop")
    assert set(tried(best)) <= set(LISTED)
    assert {row.lr for row in best.selection.tried} <= set(LISTED)


def test_one_rate_of_the_chosen_recipe_is_not_said_to_be_found():
    over = {"optimizer": ["adamw", "sgd", "adam"]}
    best = quick(task(), budget=2.0, over=over, lrs=LISTED, engine="loop")
    assert len(best.trials) == 1
    assert best.outcome == "too small to tell"
    assert best.doubts == (
        f"{best.lr:g} is the only rate that was tried with this recipe: whether another one ends "
        "better cannot be told.",
    )
    assert "can be ruled out" not in best.advice()
    assert present(best).title.endswith(f"cannot be told; {best.lr:g} was trained to the end")


def test_folds_stay_inside_too():
    best = quick(task(), folds=2, lr_range=(1e-3, 1e-2), engine="loop")
    assert all(1e-3 <= lr <= 1e-2 for lr in tried(best))


def test_a_folder_keeps_it_and_goes_on_within_it(tmp_path):
    whole = quick(task(), lr_range=(1e-3, 1e-2), engine="loop")
    first = quick(task(), budget=1.5, lr_range=(1e-3, 1e-2), folder=tmp_path, engine="loop")
    assert TuneResult.load(tmp_path).allowed == first.allowed == whole.allowed
    more = etude.tune(task(), folder=tmp_path, resume=True, budget=3.0, progress=False)
    assert all(1e-3 <= lr <= 1e-2 for lr in tried(more))
    assert math.isclose(more.budget, 3.0)
    with pytest.raises(BadValueError, match="leave lr_range, lrs and start_from out"):
        etude.tune(task(), folder=tmp_path, resume=True, lrs=[0.1, 0.2], progress=False)
    page = report.write(more, tmp_path / "page.html", task=task())
    assert "Rates allowed" in page.read_text()


@pytest.mark.slow
def test_the_same_question_has_the_same_answer():
    one, two = (quick(task(), BASE, 1.5, lrs=LISTED, engine=e) for e in ("loop", "loop"))
    assert same(one, two)
