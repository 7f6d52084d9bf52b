"""Grids: every rate is an ordinary run, the best has the least mean, and a grid goes on."""

from __future__ import annotations

import json
import math
import random
import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

import etude
from etude import Recipe, Task
from etude.errors import BadTypeError, BadValueError, StorageError, UnknownNameError
from etude.methods.grid import default_rates, grid
from etude.methods.grid_result import GridRate, GridResult
from etude.record import Cost, Evaluation, Record, Status
from etude.report import present
from etude.training.observer import Observer
from etude.training.train import train
from etude.trials.given_rates import checked_rates
from etude.trials.score import Goal
from tests.helpers import data, mlp, task

RECIPE = Recipe(optimizer="sgd", batch_size=16, steps=30, schedule="cosine()")
RATES = [0.01, 0.1, 1.0]


def judged() -> Task:
    return task(valid=data(60))


def run(rates=RATES, given=None, **more) -> GridResult:
    options = {"engine": "loop", "progress": False, **more}
    return grid(given or judged(), RECIPE, rates, **options)


def weights(model: torch.nn.Module) -> list[float]:
    return torch.cat([p.detach().flatten() for p in model.parameters()]).tolist()


def test_every_rate_is_an_ordinary_run():
    found = run(seeds=2)
    assert [one.lr for one in found.rates] == RATES
    assert found.seeds == (0, 1)
    assert found.cost == 6.0
    for one in found.rates:
        for seed, record in zip(found.seeds, one.records, strict=True):
            alone = train(judged(), RECIPE.replace(lr=one.lr, seed=seed))
            assert record.valid_loss == alone.valid_loss
            assert list(record.series["loss"]) == list(alone.series["loss"])
    assert found.recipe == RECIPE.replace(lr=found.lr)
    assert found.record.recipe == found.recipe
    assert weights(found.model) == weights(train(judged(), found.recipe).model)


def test_folds_compare_on_what_is_held_out_and_train_the_best_on_all():
    found = run(folds=3)
    assert found.cost == pytest.approx(10.0, abs=0.2)
    assert weights(found.model) == weights(train(judged(), found.recipe).model)
    other = run(folds=3, given=task(valid=(data(60)[0], 1 - data(60)[1])))
    assert [one.losses for one in found.rates] == [one.losses for one in other.rates]


def test_rates_that_diverge_are_told_and_never_best():
    steep = task(lambda: mlp(activation=torch.nn.ReLU), valid=data(60))
    found = run([0.1, 1e30], steep)
    assert found.lr == 0.1
    assert [one.diverged for one in found.rates] == [0, 1]
    assert found.rates[1].losses == (math.inf,)
    nothing = run([1e30, 1e31], steep)
    assert (nothing.lr, nothing.tied, nothing.model) == (None, (), None)
    assert "Every rate from 1e+30 to 1e+31 diverged" in nothing.advice()


def with_a_bad_row() -> Task:
    """A task with one row whose loss is NaN at any rate, though no number in it is."""
    x, y = torch.randn(64, 3, generator=torch.Generator().manual_seed(0)), torch.ones(64, 1)
    y[11] = -1.0
    return Task(torch.nn.Linear(3, 1), (x, y), valid=(x[:8], y[:8]),
                loss=lambda output, target: ((output - target.log()) ** 2).mean())  # fmt: skip


def test_a_batch_that_ends_every_rate_is_named():
    recipe = RECIPE.replace(batch_size=4)
    row = "the rate is not the cause: the loss on its batch is nan .* training rows .*11"
    found = grid(with_a_bad_row(), recipe, [1e-6, 1e-3, 1e-2], progress=False, engine="loop")
    assert re.search(row, found.advice())
    assert found.plain()["advice"] == found.cause
    grown = etude.population(with_a_bad_row(), recipe, lrs=[1e-6, 1e-3], progress=False)
    assert re.search(row, grown.advice())
    edge = etude.edge(with_a_bad_row(), recipe.replace(lr=1e-3), iterations=0, progress=False)
    assert re.search(row, edge.advice())
    assert (edge.stable, edge.unstable, edge.limit) == (None, None, None)
    ramp = etude.range_test(with_a_bad_row(), recipe, progress=False)
    assert re.search(row, ramp.advice())
    assert ramp.lr is None
    for one in (found, grown, edge, ramp):
        assert "rate is not the cause" in str(present(one))


def test_the_best_at_an_edge_is_told():
    found = run([1e-6, 1e-5])
    assert found.at_edge
    assert "better than the best constant output" in found.advice()
    found = run([0.01, 0.1])
    assert found.at_edge
    assert found.learned == ("optimum may lie beyond it" in found.advice())


def rate(lr: float, losses: list[float]) -> GridRate:
    return GridRate(lr, tuple(record(lr, loss) for loss in losses))


def record(lr: float, loss: float) -> Record:
    status = Status.FINISHED if math.isfinite(loss) else Status.DIVERGED
    seen = (Evaluation(0, 2.0, None, (2.0,) * 4), Evaluation(30, loss, None, (loss,) * 4))
    own = RECIPE.replace(lr=lr)
    return Record("t", own, status, "", 30, None, {}, seen, Cost(30, 480, 0.1), {})


LOSS = st.one_of(st.floats(0.1, 1.9), st.just(math.inf))


@given(st.integers(1, 3).flatmap(
    lambda seeds: st.lists(st.lists(LOSS, min_size=seeds, max_size=seeds), min_size=1, max_size=6)
))  # fmt: skip
def test_the_best_has_the_least_mean_and_ties_with_itself(table):
    rates = tuple(rate(10.0**i, row) for i, row in enumerate(table))
    found = GridResult(
        RECIPE, rates, tuple(range(len(table[0]))), 1, Goal(), Evaluation(0, 2.0, None, (2.0,) * 4),
        None, 1.0, 0.0,
    )  # fmt: skip
    means = {
        10.0**i: sum(row) / len(row) for i, row in enumerate(table) if all(map(math.isfinite, row))
    }
    if not means:
        assert found.lr is None
        return
    assert means[found.lr] == pytest.approx(min(means.values()))
    assert found.lr in found.tied
    assert set(found.tied) <= set(means)
    # Slices that agree leave 1% of the drop.
    drop = 2.0 - means[found.lr]
    for lr, mean in means.items():
        if mean - means[found.lr] < 0.009 * drop:
            assert lr in found.tied


@given(st.lists(st.floats(1e-12, 1e6), min_size=1, max_size=9, unique=True), st.randoms())
def test_rates_are_sorted_whatever_their_order(rates, order: random.Random):
    mixed = list(rates)
    order.shuffle(mixed)
    assert checked_rates(mixed) == tuple(sorted(rates))


def test_default_rates_are_half_a_decade_apart_around_the_prior():
    rates = default_rates(judged(), RECIPE)
    assert len(rates) == 7
    ratios = [high / low for low, high in pairwise(rates)]
    assert ratios == pytest.approx([10**0.5] * 6, rel=5e-3)


# ---- folders ------------------------------------------------------------------------------------


class Killed(Observer):
    """Ends the run of one rate at an update, as Ctrl-C would."""

    def __init__(self, lr: float, step: int) -> None:
        super().__init__()
        self.lr, self.step = lr, step

    def on_update(self, state) -> None:
        if state.recipe.lr == self.lr and state.step == self.step:
            raise KeyboardInterrupt("stop here")


@pytest.mark.parametrize(("step", "folds"), [(1, None), (17, None), (9, 2)])
def test_an_interrupted_grid_goes_on_to_the_same_bits(tmp_path, step, folds):
    whole = run(folds=folds, folder=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt, match="stop here"):
        run(folds=folds, folder=tmp_path / "cut", observers=[Killed(0.1, step)])
    found = grid(judged(), folder=tmp_path / "cut", resume=True, engine="loop", progress=False)
    assert [one.losses for one in found.rates] == [one.losses for one in whole.rates]
    assert (found.lr, found.cost) == (whole.lr, whole.cost)
    assert weights(found.model) == weights(whole.model)
    again = grid(judged(), folder=tmp_path / "cut", resume=True, engine="loop", progress=False)
    assert again.plain() == {**found.plain(), "seconds": again.seconds}


def test_a_folder_holds_one_grid(tmp_path):
    run(folder=tmp_path)
    with pytest.raises(StorageError, match="already holds a run"):
        run(folder=tmp_path)
    with pytest.raises(StorageError, match="already holds a run"):
        etude.train(judged(), RECIPE, folder=tmp_path)
    with pytest.raises(BadValueError, match="leave them out"):
        run(folder=tmp_path, resume=True)
    with pytest.raises(StorageError, match="no tuning"):
        etude.tune(judged(), folder=tmp_path, resume=True)
    with pytest.raises(StorageError, match="grid, which cannot be resumed as a run"):
        etude.train(judged(), folder=tmp_path, resume=True)
    other = Task(mlp, data(70), loss=cross_entropy, valid=data(60), metric="accuracy")
    with pytest.raises(StorageError, match="data"):
        grid(other, folder=tmp_path, resume=True, engine="loop", progress=False)
    with pytest.raises(StorageError, match="holds no grid to resume"):
        grid(judged(), folder=tmp_path / "none", resume=True)
    with pytest.raises(BadValueError, match="needs folder="):
        grid(judged(), resume=True)


NEVER = st.one_of(
    st.floats(), st.lists(st.just("a"), max_size=2), st.just({"a": 1}), st.just(""), st.just(-1)
)
"""What no entry of a request may be."""

ENTRIES = ("recipe", "lrs", "seeds", "folds", "objective", "maximize")


@given(st.sampled_from(ENTRIES), NEVER)
def test_a_damaged_file_ends_in_one_message(tmp_path_factory, key, value):
    folder = tmp_path_factory.mktemp("grid")
    request = {
        "task": "t", "recipe": RECIPE.plain(), "lrs": RATES, "seeds": 1, "objective": "loss",
        "maximize": None, "folds": 1, key: value,
    }  # fmt: skip
    (folder / "grid.json").write_text(json.dumps({"request": request, "parts": {}}))
    with pytest.raises(StorageError, match="damaged"):
        grid(judged(), folder=folder, resume=True, progress=False)


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"lrs": []}, BadValueError, "lrs is empty: give at least one rate"),
        ({"lrs": [0.1, 0.0]}, BadValueError, r"lrs\[1\]=0.0 is out of bounds"),
        ({"lrs": [math.nan]}, BadValueError, r"lrs\[0\]=nan is out of bounds"),
        ({"lrs": [0.1, 0.1]}, BadValueError, "lrs has 0.1 twice"),
        ({"lrs": "0.1"}, BadTypeError, "give a list of rates"),
        ({"lrs": 0.1}, BadTypeError, "give a list of rates"),
        ({"lrs": [True]}, BadTypeError, r"lrs\[0\]=True is not a number"),
        ({"seeds": 0}, BadValueError, "seeds=0 is out of bounds: give at least 1"),
        ({"seeds": 1.5}, BadTypeError, "seeds=1.5 is not a whole number"),
        ({"folds": 99}, BadValueError, "folds=99 is out of bounds"),
        ({"engine": "lop"}, UnknownNameError, "did you mean 'loop'"),
        ({"objective": "auc"}, BadValueError, "objective='auc'"),
        ({"recipe": 3}, BadTypeError, "recipe is an int"),
    ],
)
def test_bad_input_is_one_message(wrong, error, words):
    options = {"recipe": RECIPE, "lrs": RATES, "engine": "loop", "progress": False, **wrong}
    with pytest.raises(error, match=words):
        grid(judged(), **options)


def test_a_metric_can_be_compared():
    found = run(objective="metric")
    best = max(one.records[0].valid_metric for one in found.rates)
    assert found.best.records[0].valid_metric == best
    assert replace(found.goal) == Goal("accuracy", maximize=True)
