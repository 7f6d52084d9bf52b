"""`etude.check` as a whole: every bundled task is healthy, nothing changes, every case is told."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import etude
from etude import tasks
from etude.diagnosis.check import one_batch, short_run
from etude.diagnosis.check.one_batch import entropy
from etude.diagnosis.check.outputs import made_by
from etude.errors import BadTypeError, BadValueError, TaskError
from etude.tasks.loss.loss_calls import LossCalls

BUNDLED = [row.name for row in tasks.rows() if row.data not in ("mnist", "cifar10", "imagenet")]
RECIPE = etude.Recipe(optimizer="adamw", lr=1e-2, steps=100, batch_size=32)
OWN = RECIPE.replace(batch_size=None)


def data(count: int = 160) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    x = torch.randn(count, 6, generator=g)
    return x, (x[:, 0] + x[:, 1] > 0).long()


def network(outputs: int = 2) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, outputs))


def task(model=network, train=None, **more) -> etude.Task:
    return etude.Task(model, train or data(), **{"loss": F.cross_entropy, **more})


def test_the_list_of_bundled_tasks_is_whole():
    assert len(BUNDLED) >= 16


@pytest.mark.slow
@pytest.mark.parametrize("name", BUNDLED)
def test_every_bundled_task_is_healthy(name):
    found = etude.check(tasks.get(name))
    assert found.healthy, found
    assert len(found.seen) >= 12


@pytest.mark.parametrize("name", ["cancer-mlp", "diabetes-mlp"])
def test_small_bundled_tasks_are_healthy(name):
    assert etude.check(tasks.get(name)).healthy


@pytest.mark.parametrize(
    "changes",
    [
        {"activation": "tanh"}, {"normalisation": "batch"}, {"depth": 4, "residual": True,
         "normalisation": "layer"}, {"dropout": 0.5}, {"width": 4},
        {"initialisation": "orthogonal"},
    ],
    ids=str,
)  # fmt: skip
def test_variants_of_a_healthy_task_are_healthy(changes):
    assert etude.check(tasks.get("cancer-mlp", **changes)).healthy


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": {"name": "sgd", "momentum": 0.9}}, {"l2": 1e-3}, {"accumulate": 2},
        {"label_smoothing": 0.1}, {"clip_norm": 0.5}, {"lr_mult": {"0.weight": 0.0}},
        {"optimizer": "lbfgs", "lr": 1.0}, {"schedules": {"weight_decay": "0.1 * cosine()"}},
        {"dropout": 0.3}, {"initialisation": "he_normal"}, {"batch_size": "all"},
    ],
    ids=str,
)  # fmt: skip
def test_every_kind_of_recipe_is_checked(changes):
    found = etude.check(task(), RECIPE.replace(**changes))
    assert found.healthy, found


class Items(Dataset):
    def __len__(self) -> int:
        return 160

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = data()
        return x[index], y[index]


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(*data(), strict=True)


@pytest.mark.parametrize("kind", ["dataset", "loader", "stream"])
def test_every_kind_of_data_is_checked(kind):
    x, y = data()
    train = {
        "dataset": Items(),
        "loader": DataLoader(TensorDataset(x, y), 16, shuffle=True),
        "stream": Stream(),
    }[kind]
    g = torch.Generator().manual_seed(9)
    held = torch.randn(40, 6, generator=g)
    found = etude.check(task(train=train, valid=(held, (held[:, 0] > 0).long())), OWN)
    assert found.healthy, found


def test_what_a_step_hides_is_told():
    def step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    found = etude.check(etude.Task(network, data(), step=step), RECIPE)
    assert found.healthy
    assert len(found.unseen) >= 3
    assert all("step of its own" in reason for reason in found.unseen)


def test_parts_that_take_turns_are_checked():
    class Gan(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.critic, self.maker = nn.Linear(6, 1), nn.Linear(3, 6)

    def step(model, batch):
        made = model.maker(torch.randn(len(batch[0]), 3))
        yield "critic", (model.critic(made.detach()) - model.critic(batch[0])).mean()
        yield "maker", -model.critic(made).mean()

    found = etude.check(etude.Task(Gan, data(), step=step), RECIPE)
    assert found.healthy, found


def test_nothing_of_the_users_changes():
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    net[0].requires_grad_(False)
    net.eval()
    before = copy.deepcopy(net.state_dict())
    x, y = data()
    shuffle = torch.Generator().manual_seed(4)
    loader = DataLoader(TensorDataset(x, y), 16, shuffle=True, generator=shuffle)
    states = (
        torch.get_rng_state(), shuffle.get_state(), random.getstate(),
        np.random.get_state()[1].copy(),  # noqa: NPY002
    )  # fmt: skip
    etude.check(task(net, loader, valid=(x[:40] + 1e-3, y[:40])), OWN)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert torch.equal(shuffle.get_state(), states[1])
    assert random.getstate() == states[2]
    assert (np.random.get_state()[1] == states[3]).all()  # noqa: NPY002
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not any(module.training for module in net.modules())
    assert [p.requires_grad for p in net.parameters()] == [False, False] + [True] * 4
    assert all(p.grad is None for p in net.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_a_task_that_no_check_explains_raises_as_training_does():
    with pytest.raises(TaskError, match="the model failed"):
        etude.check(task(lambda: nn.Linear(9, 2)), RECIPE)
    with pytest.raises(BadTypeError, match="is a name: give etude"):
        etude.check("digits-mlp")
    with pytest.raises(BadValueError, match="batch_size=999"):
        etude.check(task(), RECIPE.replace(batch_size=999))


def test_what_time_does_not_allow_is_told(monkeypatch):
    monkeypatch.setattr(one_batch, "SECONDS", 0.0)
    monkeypatch.setattr(short_run, "SECONDS", 0.0)
    found = etude.check(task(), RECIPE)
    assert found.healthy
    assert any("took all the time" in reason for reason in found.unseen)
    assert any("takes too long" in reason for reason in found.unseen)


def test_the_checks_say_the_same_again():
    first, second = (etude.check(task(), RECIPE).to_dict() for _ in range(2))
    assert first == second


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40))
def test_the_entropy_is_the_loss_of_the_best_constant(labels):
    """Gibbs: no constant logits have a lower loss than the logarithms of the shares."""
    y = torch.tensor(labels)
    shares = torch.bincount(y, minlength=6).double() / len(y)
    best = F.cross_entropy(shares.clamp(min=1e-300).log().expand(len(y), 6), y)
    assert math.isclose(entropy(y), float(best), abs_tol=1e-9)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: x.softmax(1), "softmax"), (lambda x: x.log_softmax(1), "log_softmax"),
        (torch.sigmoid, "sigmoid"), (torch.tanh, "tanh"), (torch.relu, "relu"),
        (F.softplus, "softplus"), (F.hardtanh, "hardtanh"), (F.logsigmoid, "logsigmoid"),
        (lambda x: 5 * x.tanh(), ""), (lambda x: x @ x.T, ""), (lambda x: x, ""),
    ],
)  # fmt: skip
def test_the_operation_that_made_an_output_is_named(function, name):
    x = torch.randn(3, 4, requires_grad=True)
    assert made_by(function(x)) == name
    assert made_by(function(x).reshape(-1).unsqueeze(0)[:, 1:].double()) == name


def test_a_loss_is_seen_inside_whatever_calls_it():
    scores, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    for loss in (
        F.cross_entropy,
        nn.CrossEntropyLoss(),
        lambda a, b: 2 * nn.functional.cross_entropy(input=a, target=b) + 1,
    ):
        with LossCalls() as calls:
            loss(scores, y)
        assert [call.name for call in calls.seen] == ["cross_entropy"]
        assert calls.seen[0].target is y
