"""Constants, batches at fault, and what stands out in the data."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy, cross_entropy, mse_loss, nll_loss

from etude import Recipe, Task, tune
from etude.training.run import Run
from etude.trials.bad_batch import End, bad_batch, common_update, last_update, verdict
from etude.trials.baseline import constant_score
from etude.tuning.inspection import remarks

STEPS = Recipe(optimizer="adamw", steps=32, batch_size=16)


def inputs(count: int = 64) -> torch.Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_best_constant_of_the_squared_error_is_the_mean(scale):
    x = inputs()
    y = scale * (x[:, :1] + 5)
    score = constant_score(Run(Task(nn.Linear(4, 1), (x, y), valid=(x, y), loss=mse_loss), STEPS))
    assert score is not None
    assert score.loss == pytest.approx(float(y.var(correction=0)), rel=0.2)


def test_the_best_constant_of_the_cross_entropy_is_the_entropy_of_the_classes():
    y = (torch.arange(64) % 4 == 0).long()
    task = Task(nn.Linear(4, 2), (inputs(), y), valid=(inputs(), y), loss=cross_entropy)
    score = constant_score(Run(task, STEPS))
    assert score is not None
    assert score.loss == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75), rel=1e-3)


def test_the_best_constant_is_that_of_all_answers_whatever_batches_they_are_in():
    y, weight = (torch.arange(960) % 20 == 3).long(), torch.tensor([1.0, 20.0])
    loss = nn.CrossEntropyLoss(weight=weight)
    task = Task(nn.Linear(4, 2), (inputs(960), y), valid=(inputs(960), y), loss=loss)
    score = constant_score(Run(task, STEPS.replace(batch_size=8)))
    share = 20 * y.sum() / (20 * y.sum() + (1 - y).sum())
    best = loss(torch.stack([(1 - share).log(), share.log()]).expand(960, 2), y)
    assert score is not None
    assert score.loss == pytest.approx(best.item(), rel=0.02)
    y = torch.arange(640) % 2
    y[::3] = y[1::3] = -100  # whole batches without an answer
    task = Task(nn.Linear(4, 2), (inputs(640), y), valid=(inputs(640), y), loss=cross_entropy)
    score = constant_score(Run(task, STEPS.replace(batch_size=2)))
    assert score is not None
    assert score.loss == pytest.approx(math.log(2), rel=1e-3)


class RaisedError(Exception):
    """What a user's loss may raise."""


@pytest.mark.parametrize("kind", [RuntimeError, AssertionError, RaisedError])
def test_a_loss_that_refuses_the_constant_alone_leaves_no_constant_to_compare_with(kind):
    """The network's rows differ, a constant's do not."""

    def picky(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if bool((output == output[:1]).all()):
            raise kind("rows must differ")
        return mse_loss(output, target)

    x = inputs()
    task = Task(nn.Linear(4, 1), (x, x[:, :1]), valid=(x, x[:, :1]), loss=picky)
    assert constant_score(Run(task, STEPS)) is None


def test_a_loss_that_refuses_some_values_keeps_the_best_that_it_took():
    """The best constant of BCE on targets that are all 1 lies at the end of its domain."""
    x, y = inputs(), (torch.arange(64) % 8 != 0).float()[:, None]
    net = nn.Sequential(nn.Linear(4, 1), nn.Sigmoid())
    task = Task(net, (x, y), valid=(x, y), loss=binary_cross_entropy)
    score = constant_score(Run(task, STEPS))
    assert score is not None
    assert score.loss == pytest.approx(-(7 / 8) * math.log(7 / 8) - math.log(1 / 8) / 8, rel=0.02)


@pytest.mark.parametrize("call", [2, 30])
def test_an_error_that_comes_and_goes_is_the_users_and_passes(call):
    calls = []

    def breaks(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == call:
            raise RaisedError("the user's own")
        return mse_loss(output, target)

    x = inputs()
    task = Task(nn.Linear(4, 1), (x, x[:, :1]), valid=(x, x[:, :1]), loss=breaks)
    with pytest.raises(Exception, match="the user's own"):
        constant_score(Run(task, STEPS))


def test_a_common_update_is_one_that_no_run_gets_past():
    broke = [End(1.0, 7, True), End(0.1, 7, True)]
    assert common_update([*broke, End(0.01, 7, False)]) == 7
    assert common_update([*broke, End(0.01, 8, False)]) is None
    assert common_update([*broke, End(0.01, 6, True)]) is None
    assert common_update([End(0.1, 5, False)]) is None


def test_higher_rates_may_break_before_the_update_that_no_run_gets_past():
    broke = [End(9.0, 5, True), End(1.0, 7, True), End(0.1, 7, True)]
    assert last_update(broke) == 7
    assert last_update([*broke, End(0.01, 8, False)]) is None
    assert last_update([*broke, End(0.01, 6, True)]) is None
    assert verdict(broke, lambda update: f"batch {update}") == (7, "batch 7")
    assert verdict(broke, lambda update: "") == (None, "")
    assert verdict(broke[1:], lambda update: "") == (7, "")


def test_a_batch_is_named_where_the_highest_rates_break_before_it():
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    y = torch.randn(64, 1, generator=torch.Generator().manual_seed(1)).abs()
    y[11] = -1.0

    def of_logarithm(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return ((output - target.log()) ** 2).mean()

    task = Task(nn.Linear(4, 1), (x, y), valid=(x[:8], y[:8]), loss=of_logarithm)
    recipe = Recipe(optimizer="sgd", schedule="constant()", steps=64, batch_size=2)
    best = tune(task, recipe, 3.0, progress=False)
    assert best.cause
    assert best.stable_below is None
    assert "the rate is not the cause: the loss on its batch is nan" in best.advice()
    broke = {trial.record.cost.steps for trial in best.trials}
    assert len(broke) > 1, "the case is one in which a rate breaks before the batch does"


@pytest.mark.parametrize("budget", [1.5, 3.0])
def test_a_batch_that_breaks_every_rate_is_named_and_no_edge_is_claimed(budget):
    def spread(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """A loss that is infinite on a batch whose targets are all the same."""
        return mse_loss(output, target) * (2 - target.std().log())

    x = inputs()
    y = x[:, :1].round()
    task = Task(nn.Linear(4, 1), (x, y), valid=(x, y), loss=spread)
    recipe = Recipe(optimizer="adamw", steps=40, batch_size=2)
    fault = next(u for u in range(1, 40) if bad_batch(Run(task, recipe), u))
    best = tune(task, recipe, budget, progress=False)
    assert best.outcome == "nothing trains"
    assert best.stable_below is None
    assert f"update {fault} broke there" in best.advice()
    assert "it holds the training rows" in best.advice()


def test_a_batch_without_an_answered_target_breaks_nothing_and_is_no_fault():
    """Its weight is 0, and so is its gradient."""
    y = torch.arange(64) % 3
    hidden = torch.where(torch.arange(64) < 40, -100, y)
    task = Task(nn.Linear(4, 3), (inputs(), hidden), valid=(inputs(), y), loss=cross_entropy)
    recipe = Recipe(optimizer="adamw", steps=40, batch_size=2)
    assert not any(bad_batch(Run(task, recipe), u) for u in range(40))


def test_scales_and_classes_are_remarked_on():
    x, y = inputs(), torch.zeros(64, dtype=torch.long)
    model = nn.Sequential(nn.Linear(4, 2), nn.Softmax(1))

    def said(x: torch.Tensor, y: torch.Tensor, loss=cross_entropy, model=model) -> str:
        return " ".join(remarks(Run(Task(model, (x, y), valid=(x, y), loss=loss), STEPS)))

    assert "one class only" in said(x, y)
    assert "leave the softmax out of the model" in said(x, y)
    assert "leave the softmax out of the model" in said(x, y, lambda o, t: cross_entropy(o, t))
    assert "leave the softmax out of the model" in said(x, y, nn.CrossEntropyLoss())
    two = torch.arange(64) % 2
    assert "softmax" not in said(x, two, lambda o, t: nll_loss(o.log(), t))
    assert "end the model in log_softmax" in said(x, two, lambda o, t: nll_loss(o, t))
    hidden = torch.where(torch.arange(64) < 16, -100, two)
    assert "25.0% of the training samples that were looked at have no target" in said(x, hidden)
    assert "one class only" in said(x, torch.where(hidden == 1, -100, hidden))
    assert "The inputs have a mean" in said(1000 * x, y)
    line = nn.Linear(4, 1)
    assert "The targets have a mean" in said(x, x[:, :1] + 1e3, mse_loss, line)
    assert said(x, x[:, :1], mse_loss, line) == ""
