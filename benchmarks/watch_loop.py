"""The networks and the bare loop by which watching is measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


class Words(nn.Module):
    """An LSTM over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 64)
        self.body = nn.LSTM(64, 128, batch_first=True)
        self.head = nn.Linear(128, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the class scores."""
        found: Tensor = self.head(self.body(self.embed(tokens))[0][:, -1])
        return found


class Encoder(nn.Module):
    """A small transformer over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 256, dropout=0.1, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 4)
        self.head = nn.Linear(64, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the class scores."""
        found: Tensor = self.head(self.body(self.embed(tokens)).mean(1))
        return found


def mlp() -> tuple[nn.Module, Tensor]:
    layers: list[nn.Module] = [nn.Linear(512, 512), nn.ReLU()]
    layers += [nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)]
    return nn.Sequential(*layers), torch.randn(2048, 512)


def cnn() -> tuple[nn.Module, Tensor]:
    def block(inward: int, outward: int) -> list[nn.Module]:
        conv = nn.Conv2d(inward, outward, 3, padding=1, bias=False)
        return [conv, nn.BatchNorm2d(outward), nn.ReLU(), nn.MaxPool2d(2)]

    body = nn.Sequential(*block(3, 32), *block(32, 64), *block(64, 64))
    head = nn.Sequential(nn.Flatten(), nn.Linear(64 * 16, 10))
    return nn.Sequential(body, head), torch.randn(512, 3, 32, 32)


def lstm() -> tuple[nn.Module, Tensor]:
    return Words(), torch.randint(0, 100, (2048, 32))


def transformer() -> tuple[nn.Module, Tensor]:
    return Encoder(), torch.randint(0, 100, (2048, 32))


Tell = Callable[[Tensor], None]
"""Takes the loss of an update."""

NETWORKS: dict[str, tuple[Callable[[], tuple[nn.Module, Tensor]], int]] = {
    "MLP, width 512": (mlp, 128),
    "CNN": (cnn, 64),
    "LSTM": (lstm, 64),
    "transformer": (transformer, 32),
}


class Loop:
    """A bare loop with AdamW that goes on from block to block.

    Args:
        build: Makes the network and all inputs.
        batch: The number of samples in a batch.
        device: Where to train.
    """

    def __init__(
        self, build: Callable[[], tuple[nn.Module, Tensor]], batch: int, device: str = "cpu"
    ) -> None:
        torch.manual_seed(0)
        self.device = torch.device(device)
        model, inputs = build()
        self.model, self.inputs = model.to(self.device), inputs.to(self.device)
        self.targets = torch.randint(0, 10, (len(inputs),)).to(self.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.batch = batch
        self.before: Tell | None = None
        self.after: Tell | None = None

    @contextmanager
    def told(self, before: Tell | None = None, after: Tell | None = None) -> Iterator[None]:
        """Tell the loss of each update to someone, before or after the optimizer's step."""
        kept = self.before, self.after
        self.before, self.after = before or self.before, after or self.after
        try:
            yield
        finally:
            self.before, self.after = kept

    def block(self, updates: int) -> float:
        """Do some updates; return the seconds of one.

        On a CPU they are those of this process alone, on a GPU those of the clock until it is done.
        """
        started = self._now()
        for _ in range(updates):
            chosen = torch.randint(0, len(self.inputs), (self.batch,), device=self.device)
            self.optimizer.zero_grad()
            loss = cross_entropy(self.model(self.inputs[chosen]), self.targets[chosen])
            torch.autograd.backward(loss)
            if self.before is not None:
                self.before(loss)
            self.optimizer.step()
            if self.after is not None:
                self.after(loss)
        return (self._now() - started) / updates

    def _now(self) -> float:
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()


def spread(values: list[float]) -> list[float]:
    """Return the quartiles around the median."""
    low, _, high = statistics.quantiles(values, n=4)
    return [low, high]
