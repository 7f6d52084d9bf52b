"""Tune the learning rate of a training loop that stays your own."""

from collections.abc import Iterator

import torch
from sklearn.datasets import load_wine
from torch import nn
from torch.nn.functional import cross_entropy

import etude

wine = load_wine()
inputs = torch.tensor(wine.data, dtype=torch.float32)
inputs = (inputs - inputs.mean(0)) / inputs.std(0)
labels = torch.tensor(wine.target)
order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
train_rows, valid_rows = order[:140], order[140:]


def train(lr: float) -> Iterator[tuple[int, object]]:
    """Train a network; it is paused where it yields the updates done and the loss."""
    model = nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Linear(32, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr)

    def valid() -> list[float]:
        with torch.no_grad():
            outputs = model(inputs[valid_rows])
        losses: list[float] = cross_entropy(outputs, labels[valid_rows], reduction="none").tolist()
        return losses

    yield 0, valid
    for step in range(1, 201):
        rows = train_rows[torch.randint(140, (32,))]
        loss = cross_entropy(model(inputs[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        yield step, valid


if __name__ == "__main__":
    best = etude.tune_loop(train, steps=200)
    print(f"rate {best.lr}, ties with {best.tied}, for {best.cost:.2f} full runs")
