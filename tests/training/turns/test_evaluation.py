"""The evaluation of a step whose parts take turns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude import Task, train
from etude.randomness import random_state_kept
from etude.training.evaluation.evaluate import evaluate
from tests.training.turns.common import BASE, counting, distance, gan, seldom, task, twice, weights


def penalised(model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
    """A critic with a penalty on its gradient (Gulrajani et al. 2017)."""
    real = batch[0]
    fake = model.generator(torch.randn(len(real), 3)).detach()
    share = torch.rand(len(real), 1)
    between = (share * real + (1 - share) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(model.critic(between).sum(), between, create_graph=True)
    penalty = (slope.norm(dim=1) - 1).square().mean()
    yield "critic", model.critic(fake).mean() - model.critic(real).mean() + 10 * penalty
    yield "generator", -model.critic(model.generator(torch.randn(len(real), 3))).mean()


@pytest.mark.parametrize("step", [gan, twice, penalised, seldom])
def test_an_evaluation_is_the_sum_and_updates_nothing(step):
    of = task(step, counting)
    with random_state_kept(0):
        model = counting()
    before = weights(model)
    result = evaluate(of, model)
    assert weights(model) == before
    assert all(p.grad is None for p in model.parameters())
    assert result == evaluate(of, model)
    model.eval()
    with random_state_kept(0):
        expected = []
        for batch, _ in of.valid.sweep(2):
            expected.append(sum(float(loss.detach()) for _, loss in step(model, batch)))
            distance(model, batch)  # draws from the same generator
    assert result.parts[:3] == pytest.approx(expected[:3], rel=1e-5)


def test_a_step_with_a_gradient_of_its_own_trains():
    record = train(task(penalised), BASE)
    assert record.status == "finished"
    assert all(math.isfinite(e.loss) for e in record.evaluations)


def test_a_plain_step_with_a_gradient_of_its_own_is_evaluated():
    """u' = cos x: the loss holds a derivative by the input."""

    def residual(model: nn.Module, batch: Any) -> Tensor:
        x = batch[0].clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        return (slope - x.cos()).square().mean()

    x = torch.linspace(-1, 1, 64)[:, None]
    model = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
    record = train(Task(model, (x,), step=residual), BASE.replace(steps=100))
    assert record.valid_loss < 0.1 * record.evaluations[0].loss
    assert record.model[0].weight.grad is not None  # of the last update, not of the evaluation
