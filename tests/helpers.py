"""What tests in several folders share: small data, networks and tasks, and one update.

What one folder alone needs stands in its own `common.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from etude import Task
from etude.optimizers import ROWS
from etude.optimizers.match import Traits

INSTALLED = [row for row in ROWS.values() if row.installed]
"""The optimizers that can be built here."""


def data(count: int = 80, tilt: float = 0.0) -> tuple[Tensor, Tensor]:
    """Six numbers a sample; the class says whether x₀x₁ + tilt·x₂ is positive."""
    g = torch.Generator().manual_seed(3)
    x = torch.randn(count, 6, generator=g)
    return x, (x[:, 0] * x[:, 1] + tilt * x[:, 2] > 0).long()


def mlp(*widths: int, activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    """A network of linear layers of these widths (6, 12, 2 without any)."""
    sizes = widths or (6, 12, 2)
    layers: list[nn.Module] = []
    for place in range(len(sizes) - 1):
        layers += [activation()] if layers else []
        layers.append(nn.Linear(sizes[place], sizes[place + 1]))
    return nn.Sequential(*layers)


def noisy(
    hidden: int = 12, dropout: float = 0.3, activation: type[nn.Module] = nn.ReLU
) -> nn.Sequential:
    """A network with batch statistics and dropout, whose answers depend on the mode."""
    return nn.Sequential(
        nn.Linear(6, hidden),
        nn.BatchNorm1d(hidden),
        activation(),
        nn.Dropout(dropout),
        nn.Linear(hidden, 2),
    )


def task(model: Any = mlp, **more: Any) -> Task:
    """The data and a network, judged by the accuracy."""
    return Task(model, data(), loss=cross_entropy, metric="accuracy", **more)


def take_step(optimizer: torch.optim.Optimizer, closure: str, loss: Callable[[], Tensor]) -> None:
    """Take one update with a gradient, or a closure, as the optimizer's row asks for."""

    def evaluate() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        if closure != "graph":
            value.backward()
        return value

    if closure:
        optimizer.step(evaluate)
    else:
        evaluate()
        optimizer.step()


def traits(**changes: Any) -> Traits:
    """The traits of a small network of linear layers whose training is nothing out of the way."""
    plain = Traits(
        parameters=20_000,
        samples=1_000,
        batch_size=64,
        depth=3,
        kinds=frozenset({"linear"}),
        matrices=0.5,
        tables=0.0,
        sparse=0.0,
        lazy=False,
        noise=100.0,
        bursts=2.0,
        sharpness=10.0,
        spread=15.0,
        negative=-0.1,
    )
    return replace(plain, **changes)
