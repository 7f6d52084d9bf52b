"""Tasks on three kinds of network, healthy ones and those with a fault, and what was found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import etude
from etude.diagnosis.finding import Diagnosis

RECIPE = etude.Recipe(optimizer="adamw", lr=1e-2, steps=100, batch_size=32)
PLAIN = RECIPE.replace(batch_size=None)


def images(count: int = 240, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noise with a bright corner: which corner is the class."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (count,), generator=g)
    x = torch.randn(count, 1, 8, 8, generator=g)
    for row, label in enumerate(y.tolist()):
        x[row, 0, 4 * (label // 2) :, :][:4, 4 * (label % 2) :][:, :4] += 2.0
    return x, y


class Rows(nn.Module):
    """An LSTM over the rows of an image."""

    def __init__(self, outputs: int = 4, batch_first: bool = True) -> None:
        super().__init__()
        self.rnn = nn.LSTM(8, 16, batch_first=batch_first)
        self.head = nn.Linear(16, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.rnn(x.squeeze(1))[0][:, -1])
        return y


def mlp(outputs: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, outputs))


def cnn(outputs: int = 4) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(54, outputs),
    )  # fmt: skip


NETWORKS: dict[str, Callable[..., nn.Module]] = {"mlp": mlp, "cnn": cnn, "lstm": Rows}
each = pytest.mark.parametrize("name", NETWORKS)


before_training = pytest.mark.usefixtures("untrained")


def task(
    network: Any, train: Any = None, loss: Any = F.cross_entropy, valid: Any = 0.25
) -> etude.Task:
    return etude.Task(network, images() if train is None else train, valid=valid, loss=loss)


def whats(found: Diagnosis) -> list[str]:
    return [str(finding.what) for finding in found.findings]


def the(found: Diagnosis) -> Any:
    """The only finding."""
    assert len(found.findings) == 1, found
    return found.findings[0]


def numbers(name: str) -> tuple[Tensor, Tensor]:
    x, _ = images()
    return x, x.flatten(1)[:, :1] * 0.7 + x.flatten(1)[:, 1:2] ** 2


def binary() -> tuple[Tensor, Tensor]:
    x, y = images()
    return x, (y > 1).float()[:, None]
