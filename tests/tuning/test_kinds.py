"""Tuning of other kinds of tasks: it learns, and what the user gave is left as it was."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, softplus
from torch.utils.data import IterableDataset

from etude import Recipe, Task, train
from etude.randomness import random_state_kept
from etude.tasks.metrics import Metric
from tests.tuning.common import beats_a_constant, quick, task, weights

g = torch.Generator().manual_seed(0)
X = torch.randn(160, 4, generator=g)
Y = X[:, :1] - X[:, 1:2]
REAL = 1 + 0.5 * torch.randn(400, 2, generator=g)
SHORT = Recipe(steps=80, batch_size=16)


class Gan(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.critic = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
        self.generator = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))

    def sample(self, count: int) -> Tensor:
        return self.generator(torch.randn(count, 4))


def turns(model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
    (samples,) = batch
    fake = model.sample(len(samples))
    real, false = model.critic(samples), model.critic(fake.detach())
    yield "critic", softplus(-real).mean() + softplus(false).mean()
    yield "generator", softplus(-model.critic(fake)).mean()


def moments(model: Any, batch: Any) -> Tensor:
    fake, (true,) = model.sample(len(batch[0])), batch
    return torch.cat([fake.sum(0), true.sum(0), torch.tensor([float(len(true))])])


def gap(sums: list[float]) -> float:
    return sum(((sums[i] - sums[i + 2]) / sums[4]) ** 2 for i in (0, 1)) ** 0.5


class Windows(IterableDataset):
    """Eight series side by side; each batch of eight is the next window of all of them."""

    def __iter__(self) -> Iterator[Any]:
        series = torch.stack([(0.3 * torch.arange(101) + phase).sin() for phase in range(8)])
        for start in range(0, 100, 10):
            part = series[:, start : start + 11, None]
            yield from zip(part[:, :-1], part[:, 1:], strict=True)

    def __len__(self) -> int:
        return 10 * 8


class Carrying(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(1, 12, batch_first=True), nn.Linear(12, 1)
        self.register_buffer("state", None)

    def forward(self, window: Tensor) -> Tensor:
        fits = self.state is not None and self.state.shape[1] == len(window)
        output, state = self.gru(window, self.state if fits else None)
        self.state = state.detach()
        return self.head(output)


def gru() -> tuple[Task, Recipe]:
    def step(model: nn.Module, batch: Any) -> Tensor:
        return mse_loss(model(batch[0]), batch[1])

    of = Task(Carrying, Windows(), valid=Windows(), step=step)
    return of, SHORT.replace(batch_size=8, steps="6 epochs")


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(4, 8), nn.Linear(2, 8), nn.Linear(8, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(torch.tanh(self.left(a) + self.right(b)))


class Shuffled(IterableDataset):
    def __iter__(self) -> Iterator[Any]:
        order = list(range(120))
        random.shuffle(order)
        for i in order:
            yield X[i], Y[i]


def gan_task() -> tuple[Task, Recipe]:
    metric = Metric("gap", moments, gap, maximize=False)
    recipe = Recipe(
        optimizer={"name": "adam", "betas": [0.5, 0.99]},
        lr_mult={"critic.*": 2.0, "*": 1.0},
        steps=160,
        batch_size=32,
    )
    return Task(Gan, (REAL,), step=turns, metric=metric), recipe


KINDS: dict[str, Callable[[], tuple[Task, Recipe]]] = {
    "a gan": gan_task,
    "a state": gru,
    "several inputs": lambda: (Task(Two, (X, X[:, :2], Y), loss=mse_loss), SHORT),
    "a stream": lambda: (
        Task(lambda: nn.Linear(4, 1), Shuffled(), valid=(X[120:], Y[120:]), loss=mse_loss),
        SHORT,
    ),
    "accumulation": lambda: (task(), SHORT.replace(accumulate=3, batch_size=8)),
    "bfloat16": lambda: (task(), SHORT.replace(precision="bfloat16")),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_task_is_tuned(name):
    of, recipe = KINDS[name]()
    before = X.sum().item(), Y.sum().item(), REAL.sum().item()
    objective = "metric" if name == "a gan" else "loss"
    with random_state_kept(7):
        expected = random.random(), float(torch.rand(()))
    with random_state_kept(7):
        best = quick(of, recipe, 2.0, objective=objective)
        assert (random.random(), float(torch.rand(()))) == expected
    assert (X.sum().item(), Y.sum().item(), REAL.sum().item()) == before
    assert best.cost <= 2.0
    if best.outcome == "no better than a constant":
        assert not beats_a_constant(best)
    elif best.outcome == "too small to tell":
        low, high = best.tied
        assert high > 10 * low or best.notes  # what it could not tell is stated
    else:
        assert best.outcome in ("found", "at an edge")
    if name == "a gan":
        assert best.metric < 0.5 * best.untrained.metric
    else:
        assert best.loss < 0.8 * best.untrained.loss
    alone = train(KINDS[name]()[0], best.recipe)
    assert weights(best.model) == weights(alone.model)
    assert best.record.evaluations[-1] == alone.evaluations[-1]


def test_a_network_that_is_given_is_not_changed():
    network = nn.Linear(4, 1)
    before = weights(network)
    of = Task(network, Shuffled(), valid=(X[120:], Y[120:]), loss=mse_loss)
    best = quick(of, SHORT, 1.5)
    assert weights(network) == before
    assert weights(best.model) != before
