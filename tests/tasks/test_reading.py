"""Named metrics read outputs and targets as the loss does, where shapes do not tell."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn import metrics
from torch import Tensor, nn
from torch.nn import functional as F

from etude import Recipe, Task, train
from etude.tasks.loss.reading import Reading, reading_of
from etude.tasks.metrics import mean_metric

G = torch.Generator().manual_seed(0)
X = torch.randn(240, 6, generator=G)
CLASS = (X[:, 0] > 0).long() + 2 * (X[:, 1] > 0.5).long()
SHORT = Recipe(lr=0.02, steps=20, batch_size=32, evaluations=1)
SAME = ("accuracy", "f1", "balanced_accuracy", "auroc", "average_precision", "top2")


def judged(metric: Any, net: Any, y: Tensor, loss: Any) -> tuple[float | None, Tensor]:
    """Return what a short run says of a metric, and the outputs of its network."""
    record = train(Task(net, (X[:160], y[:160]), valid=(X[160:], y[160:]), loss=loss,
                        metric=metric), SHORT)  # fmt: skip
    with torch.no_grad():
        return record.valid_metric, record.model(X[160:])


@pytest.mark.parametrize("metric", SAME)
def test_targets_of_one_row_for_each_class_are_class_numbers(metric: str) -> None:
    rows = F.one_hot(CLASS, 4).float()
    ours, _ = judged(metric, lambda: nn.Linear(6, 4), rows, F.cross_entropy)
    numbers, _ = judged(metric, lambda: nn.Linear(6, 4), CLASS, F.cross_entropy)
    assert ours == pytest.approx(numbers, rel=1e-6)


def sigmoid() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 1), nn.Sigmoid(), nn.Flatten(0))


@pytest.mark.parametrize(
    ("metric", "theirs"), [("accuracy", metrics.accuracy_score), ("f1", metrics.f1_score)]
)
def test_probabilities_are_divided_at_one_half(metric: str, theirs: Any) -> None:
    y = (X[:, 0] + 0.5 * X[:, 2] > 0.3).float()
    ours, outputs = judged(metric, sigmoid, y, F.binary_cross_entropy)
    assert ours == pytest.approx(theirs(y[160:].numpy(), (outputs > 0.5).numpy()))


def test_labels_stay_labels() -> None:
    y = torch.stack([X[:, 0] > 0, X[:, 1] > 0], 1).float()
    net = lambda: nn.Linear(6, 2)  # noqa: E731
    ours, outputs = judged("accuracy", net, y, F.binary_cross_entropy_with_logits)
    assert ours == pytest.approx(((outputs > 0) == (y[160:] > 0.5)).float().mean().item())


class Inner(nn.Module):
    """Scores (N, classes, L), with as many classes as places."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(x.reshape(-1, 3, 2)).transpose(1, 2)


@pytest.mark.parametrize("metric", ["accuracy", "perplexity"])
def test_the_axis_of_the_classes_is_that_of_the_loss(metric: str) -> None:
    y = torch.stack([CLASS % 3, CLASS // 2, (X[:, 2] > 0).long()], 1)
    ours, outputs = judged(metric, Inner, y, F.cross_entropy)
    right = {
        "accuracy": (outputs.argmax(1) == y[160:]).float().mean().item(),
        "perplexity": F.cross_entropy(outputs, y[160:]).exp().item(),
    }
    assert ours == pytest.approx(right[metric], rel=1e-5)


def test_a_function_of_ones_own_gets_outputs_as_they_are() -> None:
    seen: list[Tensor] = []

    def accuracy(output: Tensor, target: Tensor) -> float:
        seen.append(output)
        return float(((output > 0.5) == (target > 0.5)).float().mean())

    y = (X[:, 0] > 0).float()
    for metric in (accuracy, mean_metric("accuracy", accuracy)):
        _, outputs = judged(metric, sigmoid, y, F.binary_cross_entropy)
        assert torch.equal(torch.cat(seen)[-80:], outputs)


def test_a_loss_of_logits_inside_of_the_loss_is_no_loss_of_the_output() -> None:
    half = torch.full((4,), 0.5)
    assert not reading_of(lambda o, t: F.binary_cross_entropy(o.sigmoid(), t), half, half).shares
    assert reading_of(
        lambda o, t: F.binary_cross_entropy(o.view(4, 1), t[:, None]), half, half
    ) == (Reading(shares=True))
