"""Numbers out of bounds are refused before a GPU would fail an assertion over them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from etude import Task
from etude.errors import BadValueError, TaskError
from etude.tasks.sources.data import Cursor
from etude.training.checks.device_asserts import BoundsChecked, bounds_checked, refuse_labels

TABLE = torch.zeros(4, 2)
SCORES = torch.zeros(2, 3)

REFUSED = {
    "a label too high": lambda: F.cross_entropy(SCORES, torch.tensor([0, 3])),
    "a label below 0": lambda: nn.NLLLoss()(SCORES, torch.tensor([0, -1])),
    "labels of places": lambda: F.cross_entropy(torch.zeros(1, 3, 2), torch.tensor([[0, 3]])),
    "a label of margins": lambda: F.multi_margin_loss(SCORES, torch.tensor([0, 3])),
    "an index too high": lambda: F.embedding(torch.tensor([4]), TABLE),
    "an index below 0": lambda: nn.Embedding(4, 2)(torch.tensor([-1])),
    "an index of a bag": lambda: F.embedding_bag(torch.tensor([[0, 4]]), TABLE),
    "no probability": lambda: F.binary_cross_entropy(torch.tensor([1.5]), torch.tensor([1.0])),
}
TAKEN = {
    "labels": lambda: F.cross_entropy(SCORES, torch.tensor([0, 2])),
    "a label that is ignored": lambda: F.cross_entropy(SCORES, torch.tensor([0, -100])),
    "only such labels": lambda: F.nll_loss(SCORES, torch.tensor([7, 7]), ignore_index=7),
    "probabilities of classes": lambda: F.cross_entropy(SCORES, SCORES + 1 / 3),
    "labels of margins": lambda: nn.MultiMarginLoss()(SCORES, torch.tensor([0, 2])),
    "indices": lambda: F.embedding(torch.tensor([[0, 3]]), TABLE),
    "no indices": lambda: F.embedding(torch.zeros(0, dtype=torch.int64), TABLE),
    "a bag": lambda: F.embedding_bag(torch.tensor([[0, 3]]), TABLE),
    "edges": lambda: F.binary_cross_entropy(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0])),
}


@pytest.mark.parametrize("call", REFUSED.values(), ids=REFUSED)
def test_what_a_cpu_refuses_is_refused_alike(call):
    with pytest.raises((IndexError, RuntimeError), match=r"out of|valid range|between"):
        call()
    with BoundsChecked(), pytest.raises(BadValueError, match=r"0 to \d"):
        call()


@pytest.mark.parametrize("call", TAKEN.values(), ids=TAKEN)
def test_what_a_cpu_takes_is_taken_alike(call):
    plain = call()
    with BoundsChecked():
        assert torch.equal(call(), plain) or bool(plain.isnan())


def test_a_cpu_needs_no_such_look():
    with bounds_checked(torch.device("cpu")) as seen:
        assert seen is None
    assert isinstance(bounds_checked(torch.device("cuda")), BoundsChecked)


def labels(bad: int, row: int) -> Tensor:
    y = torch.arange(100) % 3
    y[row] = bad
    return y


@pytest.mark.parametrize(("bad", "says"), [(3, "go to 3"), (-2, "lowest label is -2")])
@pytest.mark.parametrize("where", ["training", "validation"])
def test_a_bad_label_anywhere_in_the_data_is_named_with_its_row(bad, says, where):
    x, good = torch.randn(100, 4, generator=torch.Generator().manual_seed(0)), torch.arange(100) % 3
    parts = {"training": good, "validation": good} | {where: labels(bad, 17)}
    task = Task(
        lambda: nn.Linear(4, 3), (x, parts["training"]), (x, parts["validation"]),
        loss=F.cross_entropy,
    )  # fmt: skip
    batch = next(
        Task(nn.Linear(4, 3), (x, good), loss=F.cross_entropy).train.stream(8, 0, Cursor())
    )
    with BoundsChecked() as seen:
        task.forward(task.build(), batch)
    with pytest.raises(TaskError, match=rf"{where} row 17 has a label out of bounds: .*{says}"):
        refuse_labels(task, batch, seen)


def test_of_targets_that_the_loss_changes_nothing_is_said():
    x, y = torch.zeros(20, 4), torch.arange(20) % 3 + 1
    task = Task(lambda: nn.Linear(4, 3), (x, y), loss=lambda out, t: F.cross_entropy(out, t - 1))
    batch = next(task.train.stream(8, 0, Cursor()))
    with BoundsChecked() as seen:
        task.forward(task.build(), batch)
    refuse_labels(task, batch, seen)
