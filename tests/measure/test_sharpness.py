"""The sharpness: of known Hessians, and without second derivatives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from etude import Recipe, Task, tasks
from etude.measure.sharpness import sharpness
from etude.optimizers.classes.hessian import PRICE
from etude.training.run import Run
from tests.measure.common import Bowl, bowl, flat, task


def dense_hessian(run: Run, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the Hessian by autograd's own means, its parameters laid end to end."""
    names = [n for n, _ in run.model.named_parameters()]
    values = [p.detach() for p in run.model.parameters()]
    sizes = [v.numel() for v in values]

    def loss(vector: Tensor) -> Tensor:
        parts = vector.split(sizes)
        table = {n: p.view_as(v) for n, p, v in zip(names, parts, values, strict=True)}
        return cross_entropy(torch.func.functional_call(run.model, table, (batch[0],)), batch[1])

    whole = torch.cat([v.flatten() for v in values])
    return torch.autograd.functional.hessian(loss, whole)  # type: ignore[return-value]


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=6), st.floats(-5, 5))
@settings(max_examples=25)
def test_the_sharpness_of_a_bowl_is_its_largest_curvature_with_its_sign(others, first):
    curvatures = (first, *others)
    assume(max(abs(c) for c in curvatures) > 1e-2 and abs(max(curvatures)) > 1e-2)
    found = sharpness(Run(bowl(*curvatures), flat("sgd", 0.1)), tolerance=1e-4)
    assert found.value == pytest.approx(max(curvatures), rel=1e-3, abs=1e-4)
    assert found.lowest >= min(curvatures) - 1e-3
    if max(curvatures) < 0:
        assert found.limit is None  # it curves up nowhere: nothing to break on
    else:
        assert found.limit == pytest.approx(2 / max(curvatures), rel=1e-3)


def test_the_sharpness_of_a_network_is_that_of_its_whole_hessian():
    def net() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2))

    weights = torch.cat([torch.full((p.numel(),), p.ndim - 1.0) for p in net().parameters()])
    for recipe, added in (
        (flat("sgd", 0.1), torch.zeros(38)),
        (flat("sgd", 0.1, l2=0.25), 0.25 * weights),  # a penalty spares the biases
        (flat({"name": "sgd", "weight_decay": 0.25}, 0.1), 0.25 * torch.ones(38)),
        (flat("adamw", 0.1), torch.zeros(38)),  # decoupled: no part of the loss
    ):
        run = Run(task(net), recipe)
        whole = dense_hessian(run, run.task.train.tensors) + added.diag()
        found = sharpness(run, tolerance=1e-4, iterations=38)
        assert found.value == pytest.approx(float(torch.linalg.eigvalsh(whole)[-1]), rel=1e-3)


def test_a_sample_in_several_batches_is_their_mean():
    net = nn.Linear(6, 2)
    whole = sharpness(Run(task(net), flat("sgd", 0.1)), tolerance=1e-4)
    parts = sharpness(Run(task(net), flat("sgd", 0.1, batch_size=32)), samples=96, tolerance=1e-4)
    assert whole.samples == parts.samples == 96
    assert parts.value == pytest.approx(whole.value, rel=1e-3)
    assert whole.gradients == 96 * (1 + PRICE * whole.products)
    assert parts.gradients == 96 * (1 + PRICE) * parts.products


def test_more_batches_than_the_data_has_are_not_asked_for():
    found = sharpness(Run(task(), Recipe(batch_size=32, lr=0.1, steps=20)), samples=10_000)
    assert found.samples == 96


def test_too_few_products_are_not_called_converged():
    run = Run(bowl(*(float(c) for c in range(1, 30))), flat("sgd", 0.01))
    assert not sharpness(run, tolerance=1e-5, iterations=3).converged
    assert sharpness(run, tolerance=1e-5, iterations=30).converged


class Once(torch.autograd.Function):
    """A square whose backward pass cannot be differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * g * ctx.saved_tensors[0]


class Hard(Bowl):
    def forward(self, x: Tensor) -> Tensor:
        return (self.curvatures * Once.apply(self.w)).sum() / 2 + 0 * x


def test_without_second_derivatives_differences_of_the_gradient_are_taken_and_named():
    x = torch.zeros(8, 1)
    hard = Task(lambda: Hard((3.0, 0.5, -1.0)), (x, x), loss=lambda y, _: y.mean())
    run = Run(hard, flat("sgd", 0.1))
    before = run.model.w.detach().clone()
    found = sharpness(run, tolerance=1e-3)
    assert found.method == "finite differences"
    assert found.value == pytest.approx(3.0, rel=1e-2)
    assert torch.equal(run.model.w, before)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits-lstm", "digits-transformer"])
def test_recurrent_cells_and_attention_have_second_derivatives(name):
    found = sharpness(Run(tasks.get(name), Recipe(batch_size=16, steps=20)), samples=16)
    assert found.method == "second derivatives"
    assert found.value > 0
