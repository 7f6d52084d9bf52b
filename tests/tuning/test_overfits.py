"""What keeping the best weights would have gained: held against runs that keep them."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from etude import Recipe, Task, TuneResult, report, train
from etude.record import Cost, Evaluation, Record, Status
from etude.report.kinds.tuning import of_tuning
from etude.tuning.overfits import overfit, said
from etude.tuning.trial_summary import TrialSummary
from tests import helpers
from tests.tuning.common import quick

RECIPE = Recipe(optimizer="adamw", schedule="constant()", lr=0.01, steps=160, batch_size=16)


def overfitting() -> Task:
    """A plain rule with one answer in five wrong: every rate learns the wrong ones by heart."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(500, 16, generator=g)
    y = ((x[:, 0] + x[:, 1] > 0) ^ (torch.rand(500, generator=g) < 0.2)).long()
    return Task(
        lambda: helpers.mlp(16, 96, 2, activation=torch.nn.ReLU),
        (x[:128], y[:128]),
        valid=(x[128:], y[128:]),
        loss=cross_entropy,
    )


@cache
def tuned(budget: float = 3.0) -> TuneResult:
    return quick(overfitting(), RECIPE, budget, engine="loop")


def number(pattern: str, text: str) -> float:
    match = re.search(pattern.replace("#", r"([\d.e+-]*\d)"), text)
    assert match is not None, (pattern, text)
    return float(match.group(1))


@pytest.mark.parametrize("lr", [0.003, 0.01, 0.03])
def test_the_gain_is_what_a_run_that_keeps_its_best_weights_gains(lr):
    """To the bit, and it stops where it is said to."""
    recipe = RECIPE.replace(lr=lr)
    record = train(overfitting(), recipe)
    found = overfit(record)
    assert found is not None
    kept = train(overfitting(), recipe.replace(early_stopping=found.patience))
    assert kept.valid_loss == found.lowest
    assert found.gain == record.valid_loss - kept.valid_loss > 0
    assert kept.cost.steps == found.stopped


def test_the_advice_of_a_tuning_is_true_and_stands_in_the_report_too():
    best = tuned()
    advice = best.advice()
    patience = int(number(r"early_stopping=#\)", advice))
    kept = train(overfitting(), best.recipe.replace(early_stopping=patience))
    assert number("keeps the weights of that update: #", advice) == pytest.approx(
        kept.valid_loss, rel=1e-3
    )
    assert number("in place of #", advice) == pytest.approx(best.loss, rel=1e-3)
    assert number("lower by #", advice) == pytest.approx(best.loss - kept.valid_loss, rel=1e-3)
    assert f"and stops after update {kept.cost.steps}." in advice
    assert of_tuning(best).notice == advice
    assert advice in report.html(best).replace("&#39;", "'")


def test_a_run_that_keeps_its_best_weights_already_gets_no_advice():
    record = train(overfitting(), RECIPE.replace(early_stopping=5))
    assert overfit(record) is None


# ---- laws ----------------------------------------------------------------------------------------

losses = st.lists(st.integers(1, 99).map(lambda n: n / 100), min_size=4, max_size=12)


def made(valid: list[float], spread: float = 0.0, falls: bool = True, **more) -> Record:
    """Return a run of 10 updates an evaluation, from 1.0 untrained; `spread` at every other."""
    length = 10 * len(valid)
    own = [
        Evaluation(10 * i, loss, None, (loss - spread * (i % 2), loss + spread * (i % 2)))
        for i, loss in enumerate([1.0, *valid])
    ]
    fall = 0.9 if falls else 0.0
    series = [1.0 - fall * i / length for i in range(length)]
    recipe = Recipe(lr=0.1, steps=length, evaluations=len(valid))
    record = Record(
        "line", recipe, Status.FINISHED, "", length, None, {"loss": series}, tuple(own),
        Cost(length, length, 1.0), {},
    )  # fmt: skip
    return replace(record, **more)


def stopped_at(valid: list[float], patience: int) -> tuple[float, int]:
    """Return the kept loss and the evaluation after which a run with that patience stops."""
    best, since = 1.0, 0
    for i, loss in enumerate(valid):
        best, since = (loss, 0) if loss < best else (best, since + 1)
        if since >= patience:
            return best, i + 1
    return best, len(valid)


@given(losses)
def test_the_patience_that_is_advised_keeps_the_lowest_loss(valid):
    found = overfit(made(valid))
    if found is None:
        return
    kept, stop = stopped_at(valid, found.patience)
    assert kept == found.lowest == min(valid)
    assert 10 * stop == found.stopped
    assert found.gain == pytest.approx(valid[-1] - min(valid))


@given(losses)
def test_nothing_is_said_of_a_rise_within_the_noise_of_the_slices(valid):
    rise = valid[-1] - min(valid)
    clear, noisy = overfit(made(valid)), overfit(made(valid, spread=max(rise, 0.01)))
    apart = len(valid) - (valid.index(min(valid)) + 1)
    assert noisy is None or apart % 2 == 0  # slices that move together are no noise
    drop = 1 - min(valid)
    beyond = rise > 0.02 * drop + 1e-9 and min(valid) < 1
    assert (clear is not None) <= beyond


@given(losses)
def test_nothing_is_said_where_the_training_loss_does_not_fall_or_the_run_broke(valid):
    assert overfit(made(valid, falls=False)) is None
    assert overfit(made(valid, status=Status.DIVERGED)) is None


def summary(lr: float, record: Record) -> TrialSummary:
    return TrialSummary(lr, replace(record, recipe=record.recipe.replace(lr=lr)), False, False)


def test_it_is_said_only_where_every_rate_that_was_followed_overfits():
    bad, good = made([0.5, 0.2, 0.6, 0.8]), made([0.5, 0.3, 0.2, 0.1])
    assert "Recipe(early_stopping=3)" in said(bad, [summary(0.1, bad)])
    both = said(bad, [summary(0.01, bad), summary(0.1, bad)])
    assert "so it did at 0.01," in both
    assert "The lower rate 0.01 ended at 0.8." in both
    assert said(bad, [summary(0.01, good), summary(0.1, bad)]) == ""
    assert said(good, [summary(0.1, good)]) == ""
    assert said(bad, [summary(0.1, bad)], "accuracy") == ""
    assert "lower by 0.6." in both
