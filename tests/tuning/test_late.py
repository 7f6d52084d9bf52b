"""Tasks that learn late: an answer is right, or says what could not be told. Against full runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.nn.functional import one_hot as encoded

from etude import Recipe, Task, TuneResult, train
from tests import helpers
from tests.tuning.common import quick

pytestmark = pytest.mark.slow

FAR = 0.05
"""Share of the drop beyond which an answer is wrong."""

RATES = {"adamw": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1), "sgd": (1e-3, 1e-2, 3e-2, 1e-1, 3e-1)}
Case = tuple[Task, Recipe]


def parity() -> Case:
    """The sign of a product of three of twenty numbers."""
    x = torch.randn(2000, 20, generator=torch.Generator().manual_seed(0))
    y = (x[:, :3].prod(1) > 0).long()
    task = Task(
        lambda: helpers.mlp(20, 64, 64, 2, activation=nn.ReLU),
        (x, y),
        loss=cross_entropy,
        metric="accuracy",
    )
    return task, Recipe(optimizer="adamw", steps=600, batch_size=64)


def deep_tanh() -> Case:
    """Ten saturated layers."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(1200, 12, generator=g)
    y = (x @ torch.randn(12, 4, generator=g)).argmax(1)
    task = Task(lambda: helpers.mlp(12, *[32] * 10, 4), (x, y), loss=cross_entropy)
    momentum = {"name": "sgd", "momentum": 0.9}
    return task, Recipe(optimizer=momentum, schedule="cosine()", steps=400, batch_size=64)


class Reader(nn.Module):
    """An LSTM, of which the last step answers."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(inputs, 24, batch_first=True), nn.Linear(24, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def adding() -> Case:
    """The sum of the two numbers that are marked."""
    g = torch.Generator().manual_seed(2)
    values = torch.rand(1500, 8, generator=g)
    marks = torch.zeros(1500, 8).scatter(1, torch.rand(1500, 8, generator=g).argsort(1)[:, :2], 1.0)
    x, y = torch.stack([values, marks], 2), (values * marks).sum(1, keepdim=True)
    return Task(lambda: Reader(2, 1), (x, y), loss=mse_loss), Recipe(
        optimizer="adamw", steps=300, batch_size=64
    )


class Recall(nn.Module):
    """One layer of attention over pairs of key and value, asked for a key."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(12, 32), nn.Linear(32, 6)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(32, 2, 64, 0.0, batch_first=True) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        for layer in self.layers:
            x = layer(x)
        return self.out(x[:, -1])


def recall() -> Case:
    """The value that belongs to a key among four pairs."""
    g = torch.Generator().manual_seed(3)
    keys = torch.rand(1500, 6, generator=g).argsort(1)[:, :4]
    values = torch.randint(6, (1500, 4), generator=g)
    asked = torch.randint(4, (1500, 1), generator=g)
    pairs = torch.cat([encoded(keys, 6), encoded(values, 6)], 2).float()
    query = torch.cat([encoded(keys.gather(1, asked), 6), torch.zeros(1500, 1, 6)], 2).float()
    task = Task(
        Recall, (torch.cat([pairs, query], 1), values.gather(1, asked)[:, 0]), loss=cross_entropy
    )
    return task, Recipe(optimizer="adamw", steps=300, batch_size=32)


CASES: dict[str, Callable[[], Case]] = {
    "parity": parity,
    "deep tanh": deep_tanh,
    "adding": adding,
    "recall": recall,
}


@cache
def case(name: str) -> Case:
    return CASES[name]()


@cache
def tuned(name: str, budget: float) -> TuneResult:
    return quick(*case(name), budget, engine="loop")


@cache
def least(name: str) -> float:
    """Return the lowest final loss of full runs over a grid of rates."""
    task, recipe = case(name)
    rates = RATES[recipe.optimizer.name]
    return min(train(task, recipe.replace(lr=lr), evaluations=1).valid_loss for lr in rates)


@pytest.mark.parametrize("budget", [1.5, 3.0])
@pytest.mark.parametrize("name", CASES)
def test_an_answer_is_near_the_best_or_says_what_could_not_be_told(name, budget):
    best = tuned(name, budget)
    gap = (best.loss - least(name)) / (best.untrained.loss - least(name))
    if not gap <= FAR:
        assert best.outcome != "found" or "cannot be told" in best.advice(), (best, gap)


@pytest.mark.parametrize("budget", [1.5, 3.0])
@pytest.mark.parametrize("name", CASES)
def test_a_result_at_chance_is_never_found(name, budget):
    best = tuned(name, budget)
    assert best.constant is not None
    if not math.isfinite(best.loss) or best.loss >= best.constant.loss:
        assert best.outcome != "found"
        assert best.advice()
