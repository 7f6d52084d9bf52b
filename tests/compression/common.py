"""Networks and runs that the tests of compression share."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from etude import Recipe, Task
from etude.record import Record
from etude.training.train import train


def data(count: int = 160) -> tuple[Tensor, Tensor]:
    """Small pictures of one channel; the class says whether the left or the right is brighter."""
    g = torch.Generator().manual_seed(5)
    x = torch.randn(count, 1, 6, 6, generator=g)
    return x, (x[..., :3].mean((1, 2, 3)) > x[..., 3:].mean((1, 2, 3))).long()


class Residual(nn.Module):
    """Two convolutions with batch norms around a shortcut, then a head."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem_norm(self.stem(x)))
        x = x + self.second(F.relu(self.norm(self.first(x))))
        return self.head(x.mean((2, 3)))


class Tied(nn.Module):
    """A table of symbols that is also the last layer."""

    def __init__(self, symbols: int = 12, width: int = 8) -> None:
        super().__init__()
        self.table = nn.Embedding(symbols, width)
        self.hidden = nn.Linear(width, width)
        self.out = nn.Linear(width, symbols, bias=False)
        self.out.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.hidden(self.table(x))))


class Reader(nn.Module):
    """An LSTM that reads rows."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x[:, 0])[0][:, -1])


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(72, 16), nn.ReLU(),
        nn.Linear(16, 2),
    )  # fmt: skip


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(36, 24), nn.Tanh(), nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 2)
    )


MODELS: dict[str, Any] = {"mlp": mlp, "cnn": cnn, "residual": Residual, "lstm": Reader}


def task(name: str) -> Task:
    return Task(MODELS[name], data(), loss=F.cross_entropy, metric="accuracy", name=name)


@cache
def trained(name: str) -> Record:
    """A finished run of a network; it is shared, so that no test may change it."""
    return train(task(name), Recipe(lr=0.01, steps=64, batch_size=16, evaluations=2))


def inputs(count: int = 4) -> Tensor:
    return data()[0][:count]
