"""Faults of the network and its weights, on several kinds of network, and no other one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import etude
from etude.diagnosis.finding import Cause, Symptom
from tests.diagnosis.check.programs import (
    NETWORKS,
    RECIPE,
    Rows,
    cnn,
    each,
    mlp,
    task,
    the,
    whats,
)


@each
def test_weights_that_are_too_large(name):
    def network() -> nn.Module:
        net = NETWORKS[name]()
        with torch.no_grad():
            list(net.modules())[-1].weight.mul_(300)
        return net

    found = etude.check(task(network), RECIPE.replace(lr=1e-3))
    assert found.findings[0].what == Cause.BAD_INITIALISATION
    assert found.findings[0].evidence["loss"] > 3 * found.findings[0].evidence["chance"]


def test_large_weights_that_the_first_updates_take_down_are_fine():
    def network() -> nn.Module:
        net = mlp()
        with torch.no_grad():
            net[3].weight.mul_(30)
        return net

    found = etude.check(task(network), RECIPE.replace(lr=0.1, clip_norm=5.0))
    assert Cause.BAD_INITIALISATION not in whats(found)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_units_that_begin_alike(name):
    def network() -> nn.Module:
        net = NETWORKS[name]()
        for module in net.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.constant_(module.weight, 0.05)
                nn.init.zeros_(module.bias)
        return net

    found = etude.check(task(network), RECIPE)
    assert Cause.BAD_INITIALISATION in whats(found)


def test_a_last_layer_of_zeros_is_fine():
    def network() -> nn.Module:
        net = mlp()
        nn.init.zeros_(net[3].weight)
        return net

    assert etude.check(task(network), RECIPE).healthy


class Mixing(nn.Module):
    """Subtracts the batch's mean from the features."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x - x.mean(0, keepdim=True))
        return y


@each
def test_samples_that_are_mixed(name):
    found = etude.check(task(lambda: Mixing(NETWORKS[name]())), RECIPE)
    assert the(found).what == Cause.SAMPLES_MIXED


def test_a_recurrent_layer_that_reads_along_the_batch():
    found = etude.check(task(lambda: Rows(batch_first=False)), RECIPE)
    assert Cause.SAMPLES_MIXED in whats(found)


def test_batch_normalisation_is_named_as_the_exception():
    found = etude.check(task(cnn), RECIPE)
    assert any("but for batch normalisation (1)" in seen for seen in found.seen)


class Words(nn.Module):
    """Embeds whole numbers; with `mixes`, samples read each other."""

    def __init__(self, mixes: bool = False, one_hot: bool = False) -> None:
        super().__init__()
        self.mixes, self.one_hot = mixes, one_hot
        self.table = nn.Embedding(12, 8)
        self.head = nn.Linear(12 if one_hot else 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.one_hot(x, 12).float() if self.one_hot else self.table(x)
        y = y + self.table(torch.arange(x.shape[1]))[:, :1]
        y = y.mean(1)
        if self.mixes:
            y = y + y.roll(1, 0)
        found: Tensor = self.head(y)
        return found


@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("length", [5, 7])
def test_samples_of_whole_numbers_go_through_the_first_numbers_made_of_them(one_hot, length):
    g = torch.Generator().manual_seed(0)
    x = torch.randint(12, (240, length), generator=g)
    y = x[:, 0] % 4
    assert etude.check(task(lambda: Words(one_hot=one_hot), (x, y)), RECIPE).healthy
    mixed = etude.check(task(lambda: Words(True, one_hot), (x, y)), RECIPE)
    assert Cause.SAMPLES_MIXED in whats(mixed)


@each
def test_a_layer_that_no_gradient_reaches(name):
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.idle = NETWORKS[name](), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.net(x)
            return y

    found = etude.check(task(Idle), RECIPE)
    assert the(found).what == Cause.PARAMETERS_NOT_TRAINED
    assert the(found).layer == "idle"

    def frozen() -> nn.Module:
        net = Idle()
        net.idle.requires_grad_(False)
        return net

    assert etude.check(task(frozen), RECIPE).healthy


def test_parameters_that_the_optimizer_lacks():
    from etude.diagnosis.check.reach import missing_from_optimizer

    for net in (mlp(), cnn(), Rows()):
        parts = list(net.parameters())
        sgd = torch.optim.SGD
        assert missing_from_optimizer(net, sgd(parts, lr=0.1)) == []
        (found,) = missing_from_optimizer(net, sgd(parts[:-2], lr=0.1))
        assert found.what == Cause.PARAMETERS_NOT_TRAINED
        assert found.evidence["parameters"] == 2
        both = [sgd(parts[:-2], lr=0.1), sgd(parts[-2:], lr=0.1)]
        assert missing_from_optimizer(net, both) == []


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_units_that_never_fire(name):
    """A dead layer: its outputs are constants, and what is before it gets a gradient of 0."""

    def network() -> nn.Module:
        net = NETWORKS[name]()
        with torch.no_grad():
            (net[1] if name == "mlp" or not isinstance(net[1], nn.Linear) else net[0]).bias.fill_(
                -100.0
            )
        return net

    found = etude.check(task(network), RECIPE)
    assert Symptom.SILENT_PARAMETER in whats(found)
    assert Symptom.CONSTANT_OUTPUT in whats(found)


@pytest.mark.parametrize("name", ["mlp", "lstm"])
def test_a_network_that_cannot_fit_one_batch(name):
    """Inputs that do not reach the output: the best it can do is a constant."""

    class Blind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = NETWORKS[name]()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.net(x * 0)
            return y

    found = etude.check(task(Blind), RECIPE)
    assert {Symptom.CONSTANT_OUTPUT, Symptom.STALLED} <= set(whats(found))


@each
def test_losses_that_differ_under_one_seed(name):
    class Noisy(nn.Module):
        draw = torch.Generator().manual_seed(0)

        def __init__(self) -> None:
            super().__init__()
            self.net = NETWORKS[name]()

        def forward(self, x: Tensor) -> Tensor:
            noise = torch.randn(x.shape, generator=Noisy.draw)
            y: Tensor = self.net(x + 0.3 * noise)
            return y

    found = etude.check(task(Noisy), RECIPE)
    assert the(found).what == Cause.NOT_REPEATABLE
