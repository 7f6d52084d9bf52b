"""Faults of gates, batch normalisations, depth and the decay, and healthy tasks beside them."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import etude
from etude.diagnosis.check import checks
from etude.diagnosis.check.first_pass import first_pass
from etude.diagnosis.finding import Cause, Symptom
from tests.diagnosis.check.programs import (
    RECIPE,
    Rows,
    before_training,
    cnn,
    mlp,
    task,
    the,
    whats,
)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the one check that reads the first forward pass, and none that trains."""
    monkeypatch.setattr(checks, "OF_TRAINING", (first_pass,))


@pytest.mark.usefixtures("alone")
def test_gates_that_are_saturated_before_training():
    def network(factor: float) -> nn.Module:
        net = Rows()
        with torch.no_grad():
            for weight in net.rnn.parameters():
                weight.mul_(factor)
        return net

    found = the(etude.check(task(partial(network, 40.0)), RECIPE))
    assert (found.what, found.layer) == (Cause.BAD_INITIALISATION, "rnn")
    assert found.evidence["share"] > 0.5
    assert etude.check(task(partial(network, 1.0)), RECIPE).healthy


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("samples", [2, 32])
def test_batch_normalisation_over_two_samples(samples):
    found = etude.check(task(cnn), RECIPE.replace(batch_size=samples))
    assert (Cause.BATCH_TOO_SMALL in whats(found)) == (samples == 2)
    assert Cause.BATCH_TOO_SMALL not in whats(
        etude.check(task(mlp), RECIPE.replace(batch_size=samples))
    )


@pytest.mark.usefixtures("alone")
def test_a_depth_at_which_samples_look_alike():
    def deep(norm: bool) -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten(), nn.Linear(64, 24)]
        for _ in range(16):
            layers += [nn.BatchNorm1d(24) if norm else nn.Identity(), nn.ReLU(), nn.Linear(24, 24)]
        return nn.Sequential(*layers, nn.Linear(24, 4))

    recipe = RECIPE.replace(lr=1e-3)
    found = the(etude.check(task(partial(deep, False)), recipe))
    assert found.what == Symptom.VANISHING
    assert found.evidence["spread"] < 0.01
    assert Symptom.VANISHING not in whats(etude.check(task(partial(deep, True)), recipe))


@before_training
@pytest.mark.parametrize(
    ("optimizer", "lr", "decay", "told"),
    [
        ("sgd", 0.1, 1.0, True),
        ("sgd", 0.1, 5e-4, False),
        ("adamw", 0.01, 20.0, True),
        ("adamw", 1e-3, 0.1, False),
        ("adam", 0.01, 20.0, False),
    ],
)
def test_a_decay_that_forgets_within_a_few_updates(optimizer, lr, decay, told):
    recipe = RECIPE.replace(optimizer={"name": optimizer, "weight_decay": decay}, lr=lr, steps=400)
    assert (Cause.TOO_MUCH_REGULARISATION in whats(etude.check(task(mlp), recipe))) == told
