"""A schedule that reacts hears the loss or the metric, at the recipe's own evaluations alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import etude
from etude.errors import BadValueError
from etude.recipe import Recipe
from etude.training.request import AdvanceRequest
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
    first.advance(AdvanceRequest(at, evaluation_steps=first.state.evaluation_steps))
    second = Run(TASK, RECIPE)
    second.load_state_dict(first.state_dict())
    second.advance(AdvanceRequest(evaluation_steps=second.state.evaluation_steps))
    assert second.series["lr"] == whole.series["lr"].tolist()
    assert second.series["loss"] == whole.series["loss"].tolist()


@pytest.mark.parametrize("field", ["schedule", "schedules"])
def test_a_run_that_has_heard_before_takes_a_later_or_earlier_state(field):
    """A worker process gives the state of a run back to the run that it was sent from."""
    recipe = RECIPE
    if field == "schedules":
        recipe = RECIPE.replace(schedule="constant()", schedules={"weight_decay": RECIPE.schedule})
    whole = train(TASK, recipe)
    first, second = Run(TASK, recipe), Run(TASK, recipe)
    first.advance(AdvanceRequest(40, evaluation_steps=first.state.evaluation_steps))
    for at in (20, 60):
        second.advance(AdvanceRequest(at, evaluation_steps=second.state.evaluation_steps))
        second.load_state_dict(first.state_dict())
    second.advance(AdvanceRequest(evaluation_steps=second.state.evaluation_steps))
    assert second.series["lr"] == whole.series["lr"].tolist()
    assert second.series["loss"] == whole.series["loss"].tolist()


def test_looking_more_often_changes_nothing():
    once = Run(TASK, RECIPE)
    once.advance(AdvanceRequest(evaluation_steps=once.state.evaluation_steps))
    often = Run(TASK, RECIPE)
    often.advance(AdvanceRequest(evaluation_steps=set(range(81))))
    assert once.series == often.series


def test_the_tuners_winner_is_what_train_gives():
    best = tune(TASK, RECIPE, budget=1.5, progress=False)
    alone = train(TASK, best.recipe)
    assert best.record.series["lr"].tolist() == alone.series["lr"].tolist()
    assert best.record.series["loss"].tolist() == alone.series["loss"].tolist()


LABELS = (X.sum(1) > 0).long()
CLASSES = etude.Task(
    lambda: nn.Linear(3, 2), (X, LABELS), loss=nn.functional.cross_entropy, metric="accuracy"
)
HIGHER = RECIPE.replace(schedule="warmup(5) >> plateau(mode='max', factor=0.5, patience=1)")


@pytest.mark.parametrize("mode", ["max", "min"])
def test_it_hears_the_metric_where_it_says_so(mode):
    task = CLASSES if mode == "max" else etude.Task(
        lambda: nn.Linear(3, 1), (X, X.sum(1, keepdim=True)), loss=mse_loss, metric="mae"
    )  # fmt: skip
    text = f"plateau(on='metric', mode='{mode}', factor=0.5, patience=1)"
    record = train(task, RECIPE.replace(schedule=text))
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=RECIPE.lr)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode, factor=0.5, patience=1)
    for evaluation in record.evaluations[1:-1]:
        theirs.step(evaluation.metric)
        assert record.series["lr"][evaluation.step] == optimizer.param_groups[0]["lr"]
    assert record.series["lr"][-1] < RECIPE.lr


def test_mode_max_hears_the_metric_in_every_place():
    whole = train(CLASSES, HIGHER)
    said = train(CLASSES, HIGHER.replace(schedule=f"{HIGHER.schedule!r}".replace(
        "mode='max'", "mode='max', on='metric'")))  # fmt: skip
    assert whole.series["lr"].tolist() == said.series["lr"].tolist()
    first = Run(CLASSES, HIGHER)
    first.advance(AdvanceRequest(43, evaluation_steps=first.state.evaluation_steps))
    second = Run(CLASSES, HIGHER)
    second.load_state_dict(first.state_dict())
    second.advance(AdvanceRequest(evaluation_steps=second.state.evaluation_steps))
    assert second.series["lr"] == whole.series["lr"].tolist()
    decays = HIGHER.replace(schedules={"weight_decay": "0.1 * plateau(mode='max', patience=0)"})
    run = Run(CLASSES, decays)
    run.advance(AdvanceRequest(evaluation_steps=run.state.evaluation_steps))
    assert run.state.hyperparameter_schedules["weight_decay"](80) < 0.1


@pytest.mark.parametrize("field", ["schedule", "schedules"])
def test_a_metric_that_is_not_there_or_goes_the_other_way_is_refused_before_training(field):
    def recipe(text: str) -> Recipe:
        change = {"momentum": f"0.9 * {text}"} if field == "schedules" else text
        return RECIPE.replace(**{field: change})

    with pytest.raises(BadValueError, match="reacts to the task's metric, and the task has none"):
        train(TASK, recipe("plateau(mode='max')"))
    with pytest.raises(BadValueError, match="reacts to the task's metric, and the task has none"):
        tune(TASK, recipe("plateau(on='metric')"), budget=1.5, progress=False)
    with pytest.raises(BadValueError, match=r"'accuracy' is better when it is larger: write plat"):
        train(CLASSES, recipe("plateau(on='metric')"))
    smaller = etude.Task(
        lambda: nn.Linear(3, 1), (X, X.sum(1, keepdim=True)), loss=mse_loss, metric="mae"
    )
    with pytest.raises(BadValueError, match=r"'mae' is better when it is smaller: write plateau"):
        train(smaller, recipe("plateau(mode='max')"))


def test_one_schedule_does_not_hear_two_things():
    with pytest.raises(BadValueError, match="to the validation loss in one part and to the metric"):
        Recipe(schedule="plateau().take(100) >> plateau(mode='max')")


def test_what_reacts_to_the_gradient_is_refused():
    with pytest.raises(BadValueError, match="reacts to the gradient"):
        Recipe(schedule="hypergradient()")
