"""The edge of stability: known Hessians, frozen preconditioners, and a measured limit."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset

from etude import Recipe, Task
from etude.errors import BadTypeError, BadValueError, TaskError
from etude.measure.edge import edge
from etude.measure.sharpness import sharpness
from etude.randomness import random_state_kept
from etude.training.run import Run
from tests.measure.common import bowl, data, flat, mlp, task

# ---- the measured limit ------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "threshold"),
    [
        ("sgd", 2.0),
        ({"name": "sgd", "momentum": 0.9}, 3.8),
        ({"name": "sgd", "momentum": 0.5, "nesterov": True}, 1.5),
    ],
)
@pytest.mark.parametrize("start", [0.05, 0.7])
def test_descent_breaks_where_curvature_says(optimizer, threshold, start):
    curvature = 5.0
    lr = start * threshold / curvature
    found = edge(bowl(curvature, 0.5), flat(optimizer, lr, 300), bisections=3, steps=300)
    assert found.predicted == pytest.approx(threshold / curvature, rel=1e-3)
    assert found.stable is not None
    assert found.unstable is not None
    step = 2 ** (1 / 8)
    assert found.stable <= found.predicted * 1.03
    assert found.unstable >= found.predicted * 0.97
    assert found.unstable / found.stable == pytest.approx(step, rel=1e-6)
    assert found.ratio == pytest.approx(1.0, abs=0.1)


def test_a_rate_that_breaks_itself_is_halved_until_it_holds():
    found = edge(bowl(1.0), flat("sgd", 10.0), bisections=2)
    assert found.own.unstable
    assert found.twice is None
    assert found.stable < 2 < found.unstable
    assert "The recipe's rate 10 breaks" in found.advice()


def test_the_cost_is_everything_that_was_computed():
    found = edge(bowl(1.0), flat("sgd", 0.3, 100, batch_size=12), steps=50)
    updates = sum(probe.updates for probe in found.probes)
    looks = sum(one.gradients for one in found.sharpness)
    assert found.gradients == updates * 12 + looks
    assert found.cost == pytest.approx(found.gradients / (100 * 12))


def test_probes_are_paired_and_start_alike():
    found = edge(task(), Recipe(lr=0.01, steps=60, batch_size=16), doublings=2)
    assert len({probe.first for probe in found.probes}) == 1
    assert len({probe.last for probe in found.probes}) == len(found.probes)


def test_a_task_with_a_step_of_its_own():
    def step(model: nn.Module, batch: Any) -> Tensor:
        return mse_loss(model(batch[0]), batch[1])

    x = torch.linspace(-1, 1, 64)[:, None]
    own = Task(nn.Linear(1, 1), (x, 2 * x), step=step)
    found = edge(own, flat("sgd", 0.1, 60), doublings=5)
    assert found.stable < found.predicted * 1.05
    assert found.limit is not None


def test_where_parts_take_turns_only_the_measured_limit_is_given():
    def step(model: nn.Module, batch: Any) -> Any:
        yield "0", model(batch[0]).pow(2).mean()
        yield "2", (model(batch[0]) - 1).pow(2).mean()

    net = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1))
    turns = Task(net, data(), step=step)
    recipe = Recipe(lr=0.01, steps=30, batch_size=16)
    found = edge(turns, recipe, doublings=1)
    assert found.sharpness == ()
    assert "take turns" in found.unpredicted()
    with pytest.raises(TaskError, match="there is no single loss"):
        sharpness(Run(turns, recipe))


def test_what_the_user_gave_is_left_alone():
    net = mlp()
    net.eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    x, y = data()
    loader = DataLoader(
        TensorDataset(x, y), 16, shuffle=True, generator=torch.Generator().manual_seed(5)
    )
    given_to = Task(net, loader, (x, y), loss=cross_entropy)
    with random_state_kept(7):
        state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
        order = loader.generator.get_state()
        edge(given_to, Recipe(lr=0.01, steps=30), doublings=1, bisections=0)
        assert torch.equal(torch.get_rng_state(), state[0])
        assert random.getstate() == state[1]
        assert np.random.get_state()[1].tolist() == state[2]  # noqa: NPY002
        assert torch.equal(loader.generator.get_state(), order)
    assert not any(module.training for module in net.modules())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_measuring_leaves_no_trace_in_the_run():
    recipe = Recipe(lr=0.01, steps=40, batch_size=16)
    plain, looked = Run(task(), recipe), Run(task(), recipe)
    for run in (plain, looked):
        run.advance(15)
    first = sharpness(looked)
    assert sharpness(looked) == first  # dropout is off, and the draws are the seed's
    modes = [module.training for module in looked.model.modules()]
    for run in (plain, looked):
        run.advance()
    assert all(modes)
    assert plain.series["loss"] == looked.series["loss"]
    ours, theirs = plain.model.state_dict(), looked.model.state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


# ---- errors ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 1}, "steps=1 is out of bounds"),
        ({"steps": 0.5}, "steps=0.5 is not a whole number"),
        ({"doublings": 0}, "doublings=0 is out of bounds"),
        ({"samples": 0}, "samples=0 is out of bounds"),
        ({"tolerance": 2.0}, "tolerance=2.0 is out of bounds"),
    ],
)
def test_wrong_numbers_are_named(wrong, message):
    with pytest.raises((BadValueError, BadTypeError), match=message):
        edge(bowl(1.0), flat("sgd", 0.1), **wrong)


def test_a_run_too_short_to_break_is_refused():
    with pytest.raises(BadValueError, match="too short to tell whether training breaks"):
        edge(bowl(1.0), flat("sgd", 0.1, 5))


def test_a_task_that_does_not_fit_is_told_before_anything_is_trained():
    with pytest.raises(TaskError, match="does not fit the loss"):
        edge(task(lambda: nn.Linear(6, 1)), Recipe(lr=0.1, steps=20, batch_size=16))
