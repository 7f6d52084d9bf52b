"""What a tuning costs: within its budget, and the sum of its parts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from etude import tune
from etude.errors import BadTypeError, BadValueError
from etude.tuning.search.ladder import LADDERS, LEAST, NEEDED, ladder_for
from tests.tuning.common import (
    BASE,
    quick,
    task,
)
from tests.tuning.valleys import SGD, valley


@pytest.mark.slow
@settings(max_examples=25)
@given(
    budget=st.floats(LEAST, 8),
    steps=st.integers(16, 90),
    scale=st.sampled_from([1e-3, 0.1, 1.0, 30.0, 1e3]),
    optimizer=st.sampled_from(["sgd", "adamw"]),
)
def test_the_cost_stays_within_the_budget_and_adds_up(budget, steps, scale, optimizer):
    recipe = SGD.replace(steps=steps, optimizer=optimizer)
    best = quick(valley(scale), recipe, budget)
    assert best.cost <= budget
    assert best.cost == pytest.approx(sum(part.runs for part in best.costs), abs=1e-9)
    updates = sum(trial.record.cost.steps for trial in best.trials)
    assert best.cost == pytest.approx(updates / steps, abs=1e-9)
    assert [t.lr for t in best.trials] == sorted({t.lr for t in best.trials})
    assert best.tied[0] <= best.lr <= best.tied[1]
    assert best.stable_below is None or best.stable_below > best.lr
    assert best.record.recipe == best.recipe == recipe.replace(lr=best.lr)
    if best.outcome != "nothing trains":
        assert best.record.status == "finished"
        assert best.loss < best.untrained.loss
        finished = [t for t in best.trials if t.record.status == "finished"]
        assert best.loss == min(t.record.valid_loss for t in finished)


def test_a_ladder_costs_no_more_than_the_budget_it_is_climbed_for():
    for ladder, need in zip(LADDERS, NEEDED, strict=True):
        assert ladder.cost() <= need
        assert ladder_for(need) == ladder
        shares = [rung.share for rung in ladder.rungs]
        assert shares == sorted(shares)
        assert shares[-1] == 1
        assert all((16 * share).is_integer() for share in shares)
    assert [r.keep for r in ladder_for(1.3).rungs] == [2, 1]
    assert [r.keep for r in ladder_for(1.5).rungs] == [2, 1]
    assert [r.keep for r in ladder_for(2.0).rungs] == [2, 2, 1]
    assert [r.keep for r in ladder_for(3.0).rungs] == [6, 3, 2, 1]
    assert ladder_for(10.0) == ladder_for(3.0)


@pytest.mark.parametrize("budget", [0, 1, 1.19, -3, math.nan, math.inf])
def test_a_budget_that_compares_nothing_is_refused(budget):
    with pytest.raises(
        BadValueError, match=rf"budget={budget!r} is out of bounds: .*at least 1.2 "
    ):
        quick(task(), BASE, budget)


@pytest.mark.parametrize("budget", [True, "3", [3.0]])
def test_a_budget_that_is_no_number_is_refused(budget):
    with pytest.raises(BadTypeError, match=r"is not a number: give full runs, such as 3\.0"):
        quick(task(), BASE, budget)


def test_a_budget_of_another_library_is_that_number(tmp_path):
    plain = quick(task(), BASE, 1.5)
    for number in (np.float32(1.5), np.float64(1.5), torch.tensor(1.5)):
        folder = tmp_path / type(number).__name__
        found = quick(task(), BASE, number, valid_samples=np.int64(16), folder=folder)
        assert (found.lr, found.budget) == (plain.lr, 1.5)
        more = tune(task(), folder=folder, resume=True, more=np.int64(1), progress=False)
        assert more.budget == 2.5


def test_a_run_too_short_to_compare_is_refused(tmp_path):
    with pytest.raises(BadValueError, match=r"steps=15 is too short to compare .* at least 16"):
        quick(task(), BASE.replace(steps=15), folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert quick(task(), BASE.replace(steps=16), 1.25).cost <= 1.25
