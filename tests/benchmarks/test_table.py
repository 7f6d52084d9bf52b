"""The oracle's table as a pool: it charges what it should, and answers what training would."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import contest, oracle, samplers, table
from benchmarks.table import Table
from etude.engines import engine_for
from etude.recipe import Recipe
from etude.schedules import cosine
from etude.trials.curve import Exposure
from etude.trials.pool import TrialContext, TrialPool
from etude.trials.score import Goal
from etude.trials.trial import Trial
from etude.tuning.search.ladder import ladder_for
from etude.tuning.search.recipe_trials import RecipeTrials
from etude.tuning.search.search import Search

RATES = [10 ** (-4.0 + 0.2 * i) for i in range(21)]
EXPOSURE = Exposure.of(cosine(), 400)


def made(best: float = -2.0, breaks: float = -0.5) -> Table:
    """Return a table whose losses are known: a bowl in log rate, breaking above some rate."""
    runs = []
    for seed in range(3):
        for rate in RATES:
            log = math.log10(rate)
            broken = log > breaks
            shares = [s for s in oracle.SHARES if not broken or s < 0.3]
            losses = [2 - 1.9 * s + 0.3 * (log - best) ** 2 + 0.01 * seed for s in shares]
            runs.append(
                {
                    "lr": rate,
                    "seed": seed,
                    "untrained": 2.0,
                    "loss": losses,
                    "mean": losses,
                    "train": losses,
                    "cooled": losses[:4],
                    "steps": 120 if broken else 400,
                    "length": 400,
                }
            )
    return Table.of({"task": "made", "shares": list(oracle.SHARES), "runs": runs})


MADE = made()


def test_the_best_rate_misses_nothing_and_the_untrained_model_everything():
    at = MADE.rates[MADE.best]
    assert math.log10(at) == pytest.approx(-2.0)
    assert np.mean([MADE.regret(MADE.between(seed, at)) for seed in range(3)]) == pytest.approx(0)
    assert MADE.regret(2.0) == pytest.approx(1)
    assert MADE.regret(None) == MADE.regret(math.inf) == MADE.regret(9.0) == 1


@given(st.floats(-4, -0.6), st.integers(0, 2))
def test_between_two_rates_stands_what_lies_between_their_losses(log: float, seed: int):
    low = int((log + 4) / 0.2 + 1e-9)
    pair = MADE.final[seed, low], MADE.final[seed, min(20, low + 1)]
    assert min(pair) - 1e-9 <= MADE.between(seed, 10**log) <= max(pair) + 1e-9
    assert MADE.between(seed, RATES[low]) == pytest.approx(pair[0])


def test_next_to_a_rate_that_broke_nothing_is_promised():
    assert MADE.between(0, 10**-0.3) == math.inf
    assert MADE.end(0, 10**-0.3) == pytest.approx(0.3)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from((1.2, 1.3, 1.5, 2.0, 3.0, 10.0)),
    st.floats(-3.5, -0.8),
    st.floats(-4.0, 0.0),
)
def test_a_replay_keeps_its_budget_and_pays_for_what_its_entries_trained(
    budget: float, best: float, centre: float
):
    one = made(best)
    found = table.replay(one, 0, budget, (centre, EXPOSURE))
    trained = sum(min(e.share, e.end) for e in found.pool.trials())
    assert found.cost == pytest.approx(trained)
    assert found.cost == pytest.approx(sum(cost for _, _, cost in found.pool.costs))
    assert found.cost <= budget + 1e-9
    assert found.lr in one.rates


def test_a_replay_finds_the_bottom_of_a_clear_bowl():
    found = table.replay(MADE, 1, 3.0, (-2.9, EXPOSURE))
    assert abs(MADE.rates.index(found.lr) - MADE.best) <= 1  # its rates are two grid steps apart
    assert found.loss == MADE.final[1, MADE.rates.index(found.lr)]


def test_a_sampler_pays_for_each_trial_and_less_when_it_prunes():
    plain = {c.way: c for c in samplers.tpe(MADE, 0, 0)}
    (pruned,) = samplers.tpe(MADE, 0, 0, prune=True)
    three, _, thirty = plain.values()
    assert 0 < three.cost <= 3
    assert three.cost < thirty.cost <= 30
    assert MADE.regret(thirty.loss) <= MADE.regret(three.loss)
    assert pruned.cost < thirty.cost


def test_a_file_of_the_oracle_holds_plain_json():
    kept = oracle.shorter({"a": [math.inf, 0.123456789], "b": math.nan, "c": 3})
    assert json.dumps(kept, allow_nan=False) == '{"a": [null, 0.1234568], "b": null, "c": 3}'


TASK = "digits-rmsprop"  # cheap, and its length is a multiple of 32: every share is a whole update


class OnGrid(RecipeTrials):
    """A field that trains, at the rates of the oracle's grid alone."""

    def enter(self, lr: float) -> Trial:
        grid = oracle.rates(TASK)
        return super().enter(min(grid, key=lambda rate: abs(math.log10(rate / lr))))


@pytest.mark.slow
@pytest.mark.parametrize("budget", [1.3, 3.0])
def test_a_search_that_trains_decides_as_its_replay_does(
    budget: float, monkeypatch: pytest.MonkeyPatch
):
    """The table holds another processor's losses: decisions are compared, and not digits.

    It was kept before trials were judged by the mean of their weights too.
    """
    monkeypatch.setattr("etude.trials.pool.weight_mean", lambda task, recipe: [])
    one, seed = table.load(TASK), 1  # where no rounding decides between two finished rates
    task = contest.get(TASK)
    recipe = Recipe(**{**task.defaults, "seed": seed, "evaluations": 16})
    trained = OnGrid(
        TrialPool([task], recipe, budget, Goal(), TrialContext(engine_for("loop"))), recipe
    )
    best = Search(trained, ladder_for(budget), table.start(TASK)[0]).run()
    found = table.replay(one, seed, budget, table.start(TASK))
    assert best.lr == pytest.approx(found.lr)
    assert seen(trained.trials()) == seen(found.pool.trials())
    drop = best.record().evaluations[0].loss - found.loss
    assert best.record().valid_loss == pytest.approx(found.loss, abs=0.01 * drop)
    assert budget - trained.left == pytest.approx(found.cost, abs=0.02)


def seen(entries: Any) -> set[tuple[float, int]]:
    """Return which rates were looked at, and after which share of the run."""
    curves = [one.curve() for one in entries]
    return {(round(math.log10(c.lr), 3), round(16 * share)) for c in curves for share in c.shares}
