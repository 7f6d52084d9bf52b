"""The rate at which each optimizer runs away, from the curvature that it meets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from etude import Recipe, Task, optimizers
from etude.measure.sharpness import sharpness
from etude.measure.threshold import RULES, stability
from etude.optimizers.factory import build
from etude.training.run import Run
from tests.measure.common import bowl, data, flat

FROZEN = {
    "exp_avg_sq": 4.0,
    "max_exp_avg_sq": 4.0,
    "exp_inf": 2.0,
    "square_avg": 4.0,
    "sum": 4.0,
    "grad_avg": 0.0,
}


LATE = 30_000.0


CASES = [
    {"name": "sgd"},
    {"name": "sgd", "momentum": 0.8},
    {"name": "sgd", "momentum": 0.8, "nesterov": True},
    {"name": "sgd", "momentum": 0.8, "dampening": 0.5},
    {"name": "averaged_momentum", "momentum": 0.8},
    {"name": "adam"},
    {"name": "adam", "betas": (0.5, 0.999)},
    {"name": "adam", "amsgrad": True},
    {"name": "adamw", "weight_decay": 0.0},
    {"name": "adam_uncorrected"},
    {"name": "adamax"},
    {"name": "nadam"},
    {"name": "rmsprop"},
    {"name": "rmsprop", "momentum": 0.5, "centered": True},
    {"name": "adagrad"},
]


def grows(choice: dict[str, Any], rate: float, curvature: float) -> bool:
    """Whether the optimizer itself, its divisor held fixed, runs away on a quadratic.

    It starts so near the minimum that its gradients do not move the divisor.
    """
    fields = dict(choice)
    w = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = build(fields.pop("name"), [w], lr=rate, **fields)
    w.grad = curvature * w.detach()
    optimizer.step()  # fills the state
    state = optimizer.state[w]
    for name, value in state.items():
        if isinstance(value, Tensor):
            value.fill_(FROZEN.get(name, LATE if name == "step" else 0.0))
    w.data.fill_(1e-30)
    seen = []
    for _ in range(500):
        w.grad = curvature * w.detach()
        optimizer.step()
        for name in FROZEN.keys() & state.keys():
            if isinstance(state[name], Tensor):
                state[name].fill_(FROZEN[name])
        seen.append(abs(w.item()))
        if seen[-1] > 1e-20:
            return True
    return seen[-1] > 1e3 * max(seen[:20])


@pytest.mark.parametrize("choice", CASES, ids=str)
def test_each_threshold_is_where_the_optimizer_itself_runs_away(choice):
    """With the divisor frozen at 2, on curvature 6: torch's own step against the formula."""
    curvature, divisor = 6.0, 1.0 if choice["name"] in ("sgd", "averaged_momentum") else 2.0
    fields = {k: v for k, v in choice.items() if k != "name"}
    run = Run(bowl(curvature), flat(choice, 1e-3, 10))
    run.advance(1)
    for state in run.optimizer.state.values():
        if "step" in state:
            state["step"] = torch.tensor(LATE)
    threshold = stability(run).threshold
    assert threshold is not None, fields
    limit = threshold / (curvature / divisor)
    assert not grows(choice, 0.97 * limit, curvature)
    assert grows(choice, 1.05 * limit, curvature)


def test_the_thresholds_are_those_of_the_papers():
    def threshold(optimizer: Any) -> float | None:
        run = Run(bowl(1.0), flat(optimizer, 1e-3, 10))
        run.advance(1)
        return stability(run).threshold

    assert threshold("sgd") == 2
    assert threshold({"name": "sgd", "momentum": 0.9}) == pytest.approx(3.8)
    nesterov = {"name": "sgd", "momentum": 0.9, "nesterov": True}
    assert threshold(nesterov) == pytest.approx(3.8 / 2.8)
    assert threshold("adam") == pytest.approx(38)
    assert threshold("rmsprop") == 2


@pytest.mark.parametrize(
    "name", sorted(n for n, row in optimizers.ROWS.items() if row.stability not in RULES)
)
def test_an_optimizer_without_a_threshold_says_so(name):
    row = optimizers.get(name)
    pytest.importorskip(row.module.partition(".")[0])
    recipe = Recipe(optimizer=name, steps=10, batch_size="all")
    run = Run(Task(nn.Linear(6, 2), data(), loss=cross_entropy), recipe)
    found = sharpness(run, iterations=4)
    assert found.threshold is None
    assert found.limit is None
    assert name in found.reason


@pytest.mark.parametrize(("name", "key"), [("adam", "exp_avg_sq"), ("rmsprop", "square_avg")])
def test_adaptive_optimizers_are_measured_behind_their_own_second_moment(name, key):
    curvatures = (8.0, 1.0, 0.25)
    run = Run(bowl(*curvatures), flat(name, 1e-2, 50))
    assert sharpness(run).threshold is None  # there is no second moment yet
    run.advance(20)
    found = sharpness(run, tolerance=1e-4)
    second = run.optimizer.state[run.model.w][key].double()
    if name == "adam":
        second = second / (1 - 0.999**20)
    want = (torch.tensor(curvatures) / (second.sqrt() + 1e-8)).max()
    assert found.value == pytest.approx(8.0, rel=1e-3)
    assert found.preconditioned == pytest.approx(float(want), rel=1e-3)
    assert found.limit == pytest.approx(found.threshold / float(want), rel=1e-3)


def test_multipliers_of_the_rate_count():
    plain = sharpness(Run(bowl(4.0, 1.0), flat("sgd", 0.1)))
    faster = sharpness(Run(bowl(4.0, 1.0), flat("sgd", 0.1, lr_mult={"w": 3.0})))
    assert plain.preconditioned == plain.value
    assert faster.value == pytest.approx(plain.value)
    assert faster.preconditioned == pytest.approx(3 * plain.value, rel=1e-3)
