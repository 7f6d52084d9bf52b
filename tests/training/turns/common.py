"""What the tests of parts that take turns share: a small GAN on points of a plane."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from etude import Recipe, Record, Task
from etude.training.run import Run

SAMPLES = torch.randn(96, 2, generator=torch.Generator().manual_seed(1)) * 0.5 + 1.0


class Gan(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.critic = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 1))
        self.generator = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 2))


def losses(model: Any, real: Tensor) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    fake = model.generator(torch.randn(len(real), 3))

    def critic() -> Tensor:
        return softplus(-model.critic(real)).mean() + softplus(model.critic(fake.detach())).mean()

    def generator() -> Tensor:
        return softplus(-model.critic(fake)).mean()

    return critic, generator


def gan(model: nn.Module, batch: Any) -> Iterator[tuple[str, Tensor]]:
    critic, generator = losses(model, batch[0])
    yield "critic", critic()
    yield "generator", generator()


def twice(model: nn.Module, batch: Any) -> Iterator[tuple[str, Tensor]]:
    """Two updates of the critic for one of the generator."""
    for half in batch[0].chunk(2):
        yield "critic", losses(model, half)[0]()
    yield "generator", losses(model, batch[0])[1]()


def distance(model: Any, batch: Any) -> Tensor:
    """How far the generated mean is from the real one."""
    fake = model.generator(torch.randn(len(batch[0]), 3))
    return (fake.mean(0) - batch[0].mean(0)).norm()


def task(step: Any = gan, model: Any = Gan, **more: Any) -> Task:
    return Task(model, (SAMPLES,), step=step, metric=distance, **more)


BASE = Recipe(optimizer="adam", lr=0.01, steps=20, batch_size=8)


def weights(of: Record | Run | nn.Module) -> list[float]:
    model = of if isinstance(of, nn.Module) else of.model
    return torch.cat([v.flatten().double() for v in model.state_dict().values()]).tolist()


def seldom(model: nn.Module, batch: Any) -> Iterator[tuple[str, Tensor]]:
    """The generator's turn comes with every third batch, by a count in a buffer."""
    model.count += 1
    critic, generator = losses(model, batch[0])
    yield "critic", critic()
    if model.count % 3 == 0:
        yield "generator", generator()


def counting() -> nn.Module:
    model = Gan()
    model.register_buffer("count", torch.zeros((), dtype=torch.long))
    model.critic.insert(1, nn.BatchNorm1d(8))
    model.critic.insert(2, nn.Dropout(0.2))
    return model
