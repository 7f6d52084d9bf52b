"""A model held still: what happens within, and that nothing is left behind."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import mse_loss

from etude import Task
from etude.measure.held_still import curved, held_still
from etude.measure.probe import judge
from etude.measure.stall import GAINED, KEPT, stands_still
from etude.torch_internals import DROPOUTS, RUNNING_NORMS
from etude.training.gradient.clipping import gradient_norm


def network() -> nn.Module:
    layers = nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Sequential(nn.Linear(4, 1))
    )
    layers[3].eval()  # a part that its owner holds in evaluation mode
    return layers


X = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
TASK = Task(network, (X, X[:, :1]), loss=mse_loss)


def everything(model: nn.Module) -> list[Any]:
    modes = [module.training for module in model.modules()]
    tensors = [t.clone() for t in model.state_dict().values()]
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    return [modes, tensors, gradients, torch.get_rng_state()]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, list):
        return all(same(a, b) for a, b in zip(one, other, strict=True))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


CHOICES: list[dict[str, Any]] = [
    {},
    {"but": RUNNING_NORMS},
    {"only": (*DROPOUTS, *RUNNING_NORMS)},
]


@pytest.mark.parametrize("choice", CHOICES, ids=["all", "but norms", "dropout and norms"])
def test_nothing_is_left_behind_also_after_an_error(choice):
    model = network()
    model(X).sum().backward()
    before = everything(model)
    with suppress(ZeroDivisionError), held_still(model, TASK.train, 1, **choice):
        model.train()
        model(X).sum().backward()
        torch.rand(3)
        _ = 1 / 0
    assert same(before, everything(model))


def modes_within(choice: dict[str, Any]) -> list[bool]:
    model = network()
    with held_still(model, TASK.train, 0, **choice):
        return [module.training for module in model]


def test_who_is_in_evaluation_mode():
    assert modes_within({}) == [False, False, False, False]
    assert modes_within({"but": RUNNING_NORMS}) == [False, True, False, False]
    assert modes_within({"only": (*DROPOUTS, *RUNNING_NORMS)}) == [True, False, False, False]


def test_restoring_gives_every_pass_the_same_numbers_and_buffers():
    model = network()
    with held_still(model, TASK.train, 7, only=()) as undo:
        first = model(X)
        undo.restore()
        again = model(X)
        other = model(X)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_seed_alone_decides_what_is_drawn():
    drawn = []
    for seed in (3, 3, 4):
        torch.rand(5)
        with held_still(network(), TASK.train, seed):
            drawn.append(torch.rand(5))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_sparse_gradients_are_dense_within_a_block_alone():
    table = nn.Embedding(4, 2, sparse=True)
    with curved(table):
        table(torch.tensor([1])).sum().backward()
        assert table.weight.grad is not None
        assert not table.weight.grad.is_sparse
    assert table.sparse


# ---- one norm, one rule ------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_the_norm_of_a_sparse_gradient_is_that_of_the_dense_one_and_leaves_it(rows):
    norms = []
    for sparse in (True, False):
        table = nn.Embedding(4, 2, sparse=sparse)
        table(torch.tensor(rows)).sum().backward()
        before = table.weight.grad
        norms.append(gradient_norm([table.weight, nn.Parameter(torch.zeros(1))]))
        assert table.weight.grad is before
    assert norms[0].item() == pytest.approx(norms[1].item())


@given(st.floats(-1, 2), st.floats(-1, 2))
def test_a_rate_that_kept_and_gained_more_is_never_the_one_that_stands_still(kept, gained):
    if stands_still(kept + 0.1, gained + 0.1):
        assert stands_still(kept, gained)
    assert stands_still(kept, gained) == (kept < GAINED or (kept < KEPT and gained < GAINED))


def test_an_edge_is_judged_by_that_rule():
    own = [1 - 0.01 * t for t in range(100)]
    for kept in (0.05, 0.5, 0.9):
        flat = [1.0] + [1 - kept * (1 - own[-1])] * 99
        assert judge(0.2, flat, [1.0], "", own).unstable == stands_still(kept, 0.0)
