"""Faults of the data, on several kinds of network, and no other one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import etude
from etude.diagnosis.finding import Cause
from tests.diagnosis.check.programs import (
    NETWORKS,
    PLAIN,
    RECIPE,
    before_training,
    cnn,
    each,
    images,
    mlp,
    numbers,
    task,
    the,
    whats,
)


@each
def test_nan_and_inf(name):
    for bad in (float("nan"), float("inf")):
        x, y = images()
        x[17, 0, 3, 3] = bad
        found = etude.check(task(NETWORKS[name], (x, y)), RECIPE)
        assert found.findings[0].what == Cause.BAD_DATA
        assert "row 17" in found.findings[0].text


def test_nan_that_the_loss_passes_over_is_no_fault():
    x, y = numbers("mlp")
    y[::7] = float("nan")

    def masked(output: Tensor, target: Tensor) -> Tensor:
        known = ~target.isnan()
        return F.mse_loss(output[known], target[known])

    assert etude.check(task(lambda: mlp(1), (x, y), masked), RECIPE).healthy


@each
def test_inputs_that_are_all_alike(name):
    x, y = images()
    found = etude.check(task(NETWORKS[name], (x[:1].expand_as(x).clone(), y)), RECIPE)
    assert found.findings[0].what == Cause.BAD_DATA


def test_half_of_a_table_that_never_changes():
    x, y = images()
    table = x.flatten(1)
    table[:, :40] = table[:1, :40].clone()
    assert Cause.BAD_DATA in whats(etude.check(task(mlp, (table, y)), RECIPE))
    words = torch.zeros(240, 64)
    words[torch.arange(240), y * 3] = 1.0
    assert etude.check(task(mlp, (words, y)), RECIPE).healthy


@before_training
@each
@pytest.mark.parametrize("factor", [1e3, 1e-3])
def test_unscaled_inputs(name, factor):
    x, y = images()
    found = etude.check(task(NETWORKS[name], (factor * x, y)), RECIPE)
    assert found.findings[0].what == Cause.UNSCALED_INPUTS
    assert Cause.BAD_INITIALISATION not in whats(found)


def test_inputs_that_the_network_scales_itself_are_fine():
    x, y = images()
    network = lambda: nn.Sequential(nn.BatchNorm2d(1), mlp())  # noqa: E731
    assert etude.check(task(network, (1e3 * x, y)), RECIPE).healthy

    class Divides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = cnn()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.net(x / 1e3)
            return y

    assert etude.check(task(Divides, (1e3 * x, y)), RECIPE).healthy


@before_training
@each
@pytest.mark.parametrize(("factor", "shift"), [(1e3, 0.0), (1.0, 1e3), (1e-4, 0.0)])
def test_unscaled_targets(name, factor, shift):
    x, y = numbers(name)
    found = etude.check(
        task(lambda: NETWORKS[name](1), (x, factor * y + shift), F.mse_loss), RECIPE
    )
    assert found.findings[0].what == Cause.UNSCALED_TARGETS


@before_training
@each
def test_validation_rows_that_training_holds(name):
    x, y = images()
    found = etude.check(task(NETWORKS[name], (x, y), valid=(x[:60], y[:60])), RECIPE)
    assert the(found).what == Cause.BAD_DATA
    assert the(found).evidence["shared"] == 60


def test_rows_that_repeat_by_their_nature_are_fine():
    g = torch.Generator().manual_seed(1)
    x = torch.randint(2, (400, 6), generator=g).float()
    y = (x.sum(1) > 3).long()
    network = lambda: nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))  # noqa: E731
    assert etude.check(task(network, (x, y)), RECIPE).healthy


@before_training
@each
def test_a_class_blown_up_by_copies(name):
    x, y = images()
    one = torch.cat([x, x[y == 2][:3].repeat(80, 1, 1, 1)])
    labels = torch.cat([y, torch.full((240,), 2)])
    held = images(60, seed=5)
    found = etude.check(task(NETWORKS[name], (one, labels), valid=held), RECIPE)
    assert the(found).what == Cause.BAD_DATA
    assert the(found).evidence["class"] == 2


@before_training
@each
def test_one_class_only_and_a_class_that_training_lacks(name):
    x, y = images()
    constant = etude.check(task(NETWORKS[name], (x, torch.full_like(y, 2))), RECIPE)
    assert constant.findings[0].what == Cause.LABELS_DO_NOT_MATCH
    lacking = etude.check(
        task(NETWORKS[name], (x[y != 3], y[y != 3]), valid=images(60, seed=5)), RECIPE
    )
    assert the(lacking).what == Cause.BAD_DATA
    assert the(lacking).evidence["classes"] == "3"


@before_training
@each
def test_sorted_labels_in_a_loader_that_does_not_shuffle(name):
    x, y = images()
    order = y.argsort()
    data = TensorDataset(x[order], y[order])
    held = images(60, seed=5)
    for shuffle, found in (
        (shuffle, etude.check(
            task(NETWORKS[name], DataLoader(data, 32, shuffle=shuffle), valid=held), PLAIN
        ))
        for shuffle in (False, True)
    ):  # fmt: skip
        assert whats(found) == ([] if shuffle else [Cause.DATA_NOT_SHUFFLED])
    mixed = DataLoader(TensorDataset(x, y), 32)
    assert etude.check(task(NETWORKS[name], mixed, valid=held), PLAIN).healthy
