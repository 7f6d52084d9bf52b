"""Small tasks in float64 whose runs must be the same in one process and in several."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from etude import Recipe, Task

Case = Callable[[], tuple[Task, Recipe]]
UPDATES = 40


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def classes(count: int, most: int, *shape: int) -> Tensor:
    return torch.randint(most, (count, *shape), generator=torch.Generator().manual_seed(5))


def built(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: make().double()


def recipe(**fields: Any) -> Recipe:
    usual = {"optimizer": "sgd", "lr": 0.05, "steps": UPDATES, "batch_size": 12, "evaluations": 4}
    return Recipe(**(usual | fields))


MOMENTUM = {"name": "sgd", "momentum": 0.9}


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 3))


def dense(**more: Any) -> Task:
    data = numbers(60, 4), classes(60, 3)
    return Task(built(perceptron), data, loss=F.cross_entropy, **({"metric": "accuracy"} | more))


def mlp() -> tuple[Task, Recipe]:
    return dense(), recipe(optimizer=MOMENTUM)


def mlp_adamw_clipped() -> tuple[Task, Recipe]:
    return dense(), recipe(optimizer="adamw", lr=0.01, clip_norm=0.05)


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.BatchNorm1d(16, momentum=None),
        nn.Linear(16, 3),
    )


def cnn() -> tuple[Task, Recipe]:
    data = numbers(50, 1, 6, 6), classes(50, 3)
    return (
        Task(built(convolutional), data, loss=F.cross_entropy, metric="f1"),
        recipe(optimizer=MOMENTUM, batch_size=10),
    )


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.LSTM(3, 5, batch_first=True)
        self.head = nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x)[0][:, -1]).squeeze(-1)


def lstm() -> tuple[Task, Recipe]:
    x = numbers(40, 6, 3)
    y = (x.sum((1, 2)) > 0).double()
    task = Task(built(Recurrent), (x, y), loss=F.binary_cross_entropy_with_logits, metric="auroc")
    return task, recipe(optimizer="adam", lr=0.01, clip_norm=1.0)


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 11)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.block(self.table(tokens))).transpose(1, 2)


def transformer() -> tuple[Task, Recipe]:
    """Targets that are ignored differ in number from sample to sample: weights are unequal."""
    tokens = classes(36, 11, 7)
    targets = tokens.roll(-1, 1).masked_fill(classes(36, 3, 7) == 0, -100)
    task = Task(built(Reader), (tokens, targets), loss=F.cross_entropy, metric="accuracy")
    return task, recipe(optimizer="adamw", lr=0.003, batch_size=7)


def accumulated() -> tuple[Task, Recipe]:
    """Unequal weights, several batches in an update, and penalties that are not weighted."""
    tokens = classes(36, 11, 7)
    targets = tokens.roll(-1, 1).masked_fill(classes(36, 3, 7) != 0, -100)
    task = Task(built(Reader), (tokens, targets), loss=F.cross_entropy)
    return task, recipe(optimizer="adamw", lr=0.003, batch_size=5, accumulate=3, l2=1e-3)


def activity() -> tuple[Task, Recipe]:
    return dense(), recipe(activity=0.1, l1=1e-4, batch_size=7, accumulate=2)


def loader_of(count: int, batch: int) -> tuple[Task, Recipe]:
    data = TensorDataset(numbers(count, 4), classes(count, 3))
    held = numbers(30, 4, seed=9), classes(30, 3)
    loader = DataLoader(data, batch_size=batch, shuffle=True)
    task = Task(built(perceptron), loader, held, loss=F.cross_entropy, metric="balanced_accuracy")
    return task, recipe(batch_size=None)


def remainder() -> tuple[Task, Recipe]:
    """The last batch of an epoch has 5 samples, which neither 2 nor 4 processes divide."""
    return loader_of(21, 8)


def one_left() -> tuple[Task, Recipe]:
    """The last batch of an epoch has a single sample: the other processes have none."""
    task, found = loader_of(25, 8)
    return task, found


class Words(Dataset[dict[str, Tensor]]):
    """A dataset of mappings, read by index."""

    def __init__(self) -> None:
        self.x, self.y = numbers(44, 4), classes(44, 3)

    def __len__(self) -> int:
        return 44

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.x[index], "y": self.y[index]}


def step_pair() -> tuple[Task, Recipe]:
    """A step of one's own that returns (sum, weight), with a weight for each sample."""

    def step(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        losses = F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")
        weights = 1.0 + batch["y"].double()
        return (losses * weights).sum(), weights.sum()

    def hits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return (model(batch["x"]).argmax(1) == batch["y"]).double().mean()

    task = Task(built(perceptron), Words(), 0.25, step=step, metric=hits, maximize=True)
    return task, recipe(optimizer=MOMENTUM, batch_size=11, accumulate=2)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.critic = nn.Sequential(nn.Linear(2, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 1))
        self.generator = nn.Linear(3, 2)


def turns() -> tuple[Task, Recipe]:
    """Two parts that are updated in turn; no process draws random numbers of its own."""

    def step(model: Any, batch: tuple[Tensor, Tensor]) -> Iterator[tuple[str, Tensor]]:
        real, noise = batch
        fake = model.generator(noise)
        yield (
            "critic",
            F.softplus(model.critic(fake.detach())).mean() + F.softplus(-model.critic(real)).mean(),
        )
        yield "generator", F.softplus(-model.critic(model.generator(noise))).mean()

    task = Task(built(Pair), (numbers(48, 2), numbers(48, 3, seed=1)), step=step)
    return task, recipe(optimizer="adam", lr=0.002, batch_size=9, clip_norm=1.0)


def closure() -> tuple[Task, Recipe]:
    """A convex loss: where L-BFGS breaks, the last digit decides where it goes."""
    x = numbers(60, 4)
    task = Task(built(lambda: nn.Linear(4, 1)), (x, x.sum(1, keepdim=True)), loss=F.mse_loss)
    return task, recipe(optimizer="lbfgs", lr=0.1, steps=20, batch_size="all", l2=0.01)


def plateau() -> tuple[Task, Recipe]:
    """A schedule and an end that follow from the validation loss."""
    return dense(), recipe(
        optimizer=MOMENTUM, lr=0.3, schedule="plateau(0.5, patience=1)", evaluations=20,
        early_stopping=6,
    )  # fmt: skip


def skipping() -> tuple[Task, Recipe]:
    return dense(), recipe(optimizer=MOMENTUM, spikes="skip", batch_size=5, lr=0.4)


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.idle = perceptron(), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def unused() -> tuple[Task, Recipe]:
    """A layer that no sample reaches has no gradient anywhere, so weight decay leaves it."""
    task = Task(built(Unused), (numbers(60, 4), classes(60, 3)), loss=F.cross_entropy)
    return task, recipe(optimizer="adamw", lr=0.01)


class Carrying(nn.Module):
    """Carries a state from batch to batch in a buffer."""

    level: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inner = perceptron()
        self.register_buffer("level", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            self.level = self.level + 0.1
        return self.inner(x) + self.level * x[:, :1]


def carrying() -> tuple[Task, Recipe]:
    """An evaluation depends on the order of the slices, so every process computes all."""
    return (
        Task(built(Carrying), (numbers(60, 4), classes(60, 3)), loss=F.cross_entropy),
        recipe(),
    )


CASES: dict[str, Case] = {
    case.__name__: case
    for case in (
        mlp, mlp_adamw_clipped, cnn, lstm, transformer, accumulated, activity, remainder, one_left,
        step_pair, turns, closure, plateau, skipping, unused, carrying,
    )
}  # fmt: skip
