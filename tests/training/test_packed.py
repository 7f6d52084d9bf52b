"""Batches with packed sequences, whose tensors have no common first axis."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils.data import DataLoader

import etude
from etude import Recipe, Task
from etude.tasks.sources.source import rows

G = torch.Generator().manual_seed(0)
SAMPLES = [(torch.randn(2 + i % 4, 3, generator=G) + i % 2, i % 2) for i in range(64)]
RECIPE = Recipe(
    optimizer="sgd", lr=0.1, schedule="constant()", steps=16, batch_size=8, evaluations=2
)


def packed(samples: list[tuple[Tensor, int]]) -> tuple[PackedSequence, Tensor]:
    sequences = pack_sequence([x for x, _ in samples], enforce_sorted=False)
    return sequences, torch.tensor([y for _, y in samples])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRU(3, 8), nn.Linear(8, 2)

    def forward(self, x: PackedSequence) -> Tensor:
        found: Tensor = self.head(self.cell(x)[1][-1])
        return found


def loader() -> DataLoader:
    return DataLoader(SAMPLES, batch_size=8, collate_fn=packed)


def task(model: nn.Module | type[nn.Module] = Net) -> Task:
    return Task(model, loader(), valid=loader(), loss=cross_entropy, metric="accuracy")


def test_training_is_that_of_a_plain_loop():
    torch.manual_seed(0)
    model = Net()
    record = etude.train(task(model), RECIPE)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        for x, y in loader():
            optimizer.zero_grad()
            torch.autograd.backward(cross_entropy(model(x), y))
            optimizer.step()
    assert record.model is not None
    for name, weight in record.model.named_parameters():
        torch.testing.assert_close(weight, model.get_parameter(name))
    x, y = packed(SAMPLES)
    with torch.no_grad():
        loss = float(cross_entropy(model(x), y))
    assert abs(record.evaluations[-1].loss - loss) < 1e-6
    assert rows((x, y)) == 64


def test_the_rate_is_tuned_and_nothing_is_wrong():
    long = RECIPE.replace(steps=64, schedule="cosine()")
    assert etude.tune(task(), long, 1.5, progress=False).cost <= 1.5
    assert etude.check(task(), long).healthy
    found = etude.diagnose(task(), long, progress=False)
    assert found.history is not None
