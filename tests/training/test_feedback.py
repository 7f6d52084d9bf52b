"""A schedule that reacts hears the validation loss, and only at the recipe's own evaluations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import etude
from etude.errors import BadValueError
from etude.recipe import Recipe
from etude.training.run import Run
from etude.training.train import train
from etude.tuning.tune import tune

X = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
TASK = etude.Task(lambda: nn.Linear(3, 1), (X, X.sum(1, keepdim=True)), loss=mse_loss)
# A rate so high that the loss soon stands still above zero.
RECIPE = Recipe(
    optimizer="sgd",
    lr=0.5,
    schedule="warmup(5) >> plateau(factor=0.5, patience=0)",
    steps=80,
    batch_size=8,
    evaluations=16,
)


def test_the_rate_falls_when_the_validation_loss_does_not():
    record = train(TASK, RECIPE)
    rates = record.series["lr"]
    assert rates[-1] < rates[10]
    best = np.inf
    for evaluation in record.evaluations[2:-1]:
        before, after = rates[evaluation.step - 1], rates[evaluation.step]
        # torch's own rule: better by a ten-thousandth, or the rate is halved.
        if evaluation.loss < best * (1 - 1e-4):
            assert after == before
        else:
            assert after == before / 2
        best = min(best, evaluation.loss)


def test_it_is_the_rule_of_torch():
    record = train(TASK, RECIPE)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=RECIPE.lr)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    for evaluation in record.evaluations[1:-1]:
        theirs.step(evaluation.loss)
        assert record.series["lr"][evaluation.step] == optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize("at", [17, 40])
def test_resumed_equals_uninterrupted(at):
    whole = train(TASK, RECIPE)
    first = Run(TASK, RECIPE)
    first.walk(first.heard, at)
    second = Run(TASK, RECIPE)
    second.load(first.state())
    second.walk(second.heard)
    assert second.series["lr"] == whole.series["lr"].tolist()
    assert second.series["loss"] == whole.series["loss"].tolist()


def test_looking_more_often_changes_nothing():
    once = Run(TASK, RECIPE)
    once.walk(once.heard)
    often = Run(TASK, RECIPE)
    often.walk(set(range(81)))
    assert once.series == often.series


def test_the_tuners_winner_is_what_train_gives():
    best = tune(TASK, RECIPE, budget=1.5, progress=False)
    alone = train(TASK, best.recipe)
    assert best.record.series["lr"].tolist() == alone.series["lr"].tolist()
    assert best.record.series["loss"].tolist() == alone.series["loss"].tolist()


def test_what_reacts_to_the_gradient_is_refused():
    with pytest.raises(BadValueError, match="reacts to the gradient"):
        Recipe(schedule="hypergradient()")
