"""What the model or the loss cannot take is named, with the fix, from shapes and types alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from etude.errors import TaskError
from etude.tasks.task import Task

X, Y = torch.zeros(8, 4), torch.arange(8) % 2


def failure(model: nn.Module, x: torch.Tensor, y: torch.Tensor = Y, loss=cross_entropy) -> str:
    task = Task(nn.Linear(4, 2), (X, Y), loss=loss)
    with pytest.raises(TaskError, match=r"failed on inputs|does not fit the loss") as caught:
        task.forward(model, (x, y))
    return str(caught.value)


CASES = [
    (lambda: failure(nn.Linear(4, 2), X.double()), "are float64, the weights float32: give x.flo"),
    (lambda: failure(nn.Linear(4, 2), X.long()), "are int64, the weights float32: give x.float()"),
    (lambda: failure(nn.Linear(4, 2).double(), X), "float32, the weights float64: give model.floa"),
    (lambda: failure(nn.Linear(4, 2).half(), X), "model.float(), and give precision='float16'"),
    (lambda: failure(nn.Conv1d(4, 2, 1), X[..., None].double()), "give x.float()"),
    (lambda: failure(nn.Sequential(nn.Linear(5, 2)), X), "the layer '0' (Linear) reads 5 features"),
    (lambda: failure(nn.Sequential(nn.Embedding(9, 2)), X), "give x.long()"),
    (lambda: failure(nn.Linear(4, 2), X, Y.float()), "labels are float32, and class numbers are"),
    (lambda: failure(nn.Linear(4, 2), X, Y * 6), "labels go to 6, the model has 2 outputs"),
    (lambda: failure(nn.Linear(4, 2), X, Y - 1, nn.CrossEntropyLoss()), "lowest label is -1"),
]


@pytest.mark.parametrize(("fails", "said"), CASES)
def test_the_mistake_and_its_fix_are_told(fails, said):
    assert said in fails()


class Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ValueError("it broke")


def test_another_failure_gets_no_hint():
    assert failure(Broken(), X.long()).endswith(")")
    assert "it broke" in failure(Broken(), X.long())
    indices = failure(nn.Sequential(nn.Embedding(3, 2)), torch.full((8, 4), 7))
    assert "float" not in indices
