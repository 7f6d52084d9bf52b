"""A loss that breaks is named with what broke first: a gradient, weights, or nothing before it."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from etude import Recipe, Task, train
from etude.training.request import AdvanceRequest
from etude.training.run import Run

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)
RECIPE = Recipe(optimizer="sgd", lr=0.01, steps=20, batch_size=8, evaluations=4)


class Spoils(torch.autograd.Function):
    """The identity; its gradient is another number from the `at`-th call on."""

    value, at, calls = math.nan, 0, 0

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        Spoils.calls += 1
        return grad * Spoils.value if Spoils.calls > Spoils.at else grad


class Net(nn.Module):
    """Only `inner` gets the gradient that is spoilt."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(3, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(Spoils.apply(self.inner(x)))


def run(at: int, value: float, recipe: Recipe = RECIPE) -> Run:
    Spoils.calls, Spoils.at, Spoils.value = 0, at, value
    made = Run(Task(Net, (X, Y), valid=(X, Y), loss=mse_loss), recipe)
    made.advance(AdvanceRequest(evaluation_steps=made.state.evaluation_steps))
    return made


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_breaks_at_a_finite_loss_is_named_with_its_update(value):
    """Update 4 is the last before an evaluation."""
    made = run(4, value)
    held = "nan" if math.isnan(value) else r"(nan|inf)"
    assert made.diverged
    loss = made.series["loss"][4]
    assert math.isfinite(loss)
    pattern = (
        rf"^the gradient of 'inner\.weight' became {held} at update 4, at a finite loss of "
        rf"{loss:.4g}; the validation loss became nan after update 5$"
    )
    assert re.match(pattern, made.reason), made.reason


def test_weights_that_broke_are_named_where_the_gradient_is_gone():
    """The next training loss tells of it first: its own gradient took the place of the one."""
    made = run(6, math.nan)
    loss = made.series["loss"][6]
    assert made.reason == (
        "the training loss became nan at update 7 (lr "
        f"{0.01 * made.state.lr_schedule(7):.3g}): the weights of 'inner.weight' became nan at or "
        f"before update 6, at a finite loss of {loss:.4g}"
    )


def test_a_norm_that_was_measured_tells_the_update():
    for recipe in (RECIPE.replace(clip_norm=1.0), RECIPE.replace(clip_percentile=50)):
        late, early = run(4, math.nan, recipe), run(6, math.nan, recipe)
        assert late.reason.startswith(
            "the norm of the gradient became nan at update 4, at a finite"
        )
        assert ": the norm of the gradient became nan at update 6, at a finite loss" in early.reason


def test_the_last_update_may_be_the_one_that_breaks():
    made = run(19, math.nan)
    assert made.step == 20
    assert made.reason.startswith("the gradient of 'inner.weight' became nan at update 19, at a fi")


def test_a_resumed_run_does_not_blame_another_gradient():
    first = run(10**9, math.nan)  # it holds the gradient of its last update
    second = Run(Task(Net, (X, Y), valid=(X, Y), loss=mse_loss), RECIPE)
    second.advance(3)
    with torch.no_grad():
        second.model.outer.bias.fill_(math.nan)
    state = second.state_dict()
    third = Run(Task(Net, (X, Y), valid=(X, Y), loss=mse_loss), RECIPE)
    third.advance(2)
    third.load_state_dict(state)
    third.evaluate()
    assert third.reason.startswith("the weights of 'outer.bias' became nan at or before update 2")
    assert first.status == "finished"


def test_a_buffer_that_evaluation_reads_is_named():
    class Carries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(3, 1)
            self.register_buffer("mean", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            if not self.training:
                return self.line(x) - self.mean
            self.mean.fill_(math.nan)
            return self.line(x)

    record = train(Task(Carries, (X, Y), valid=(X, Y), loss=mse_loss), RECIPE)
    assert record.reason == (
        "the buffer 'mean' became nan at or before update 4, at a finite loss; the validation "
        "loss became nan after update 5"
    )
