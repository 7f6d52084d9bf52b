"""What `diagnose` says of runs whose fault is known, and of runs that have none."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import etude
from etude import Recipe, Task
from etude.diagnosis.finding import Cause, Finding, Symptom
from etude.diagnosis.history import History, LayerInfo
from etude.diagnosis.overfitting import overfitting
from etude.diagnosis.saturating import saturating_activation
from etude.diagnosis.suspects import SUSPECTS, stated, suspects
from etude.errors import BadValueError, TaskError
from tests.helpers import mlp


def points(count: int = 256, flips: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Six numbers a sample; the class says whether a sum is positive, some labels flipped."""
    g = torch.Generator().manual_seed(3)
    x = torch.randn(count, 6, generator=g)
    y = (x[:, 0] + x[:, 1] > 0).long()
    return x, torch.where(torch.rand(count, generator=g) < flips, 1 - y, y)


def deep(activation: type[nn.Module] = nn.Sigmoid) -> nn.Module:
    """Nine layers."""
    return mlp(6, *[16] * 8, 2, activation=activation)


HEALTHY = Task(mlp, points(), loss=cross_entropy, metric="accuracy", name="healthy")
DEEP = Task(deep, points(), loss=cross_entropy, metric="accuracy", name="deep")
RECIPE = Recipe(lr=3e-3, steps=128, batch_size=32, evaluations=4)


def test_a_healthy_run_is_called_healthy_and_nothing_is_tried() -> None:
    found = etude.diagnose(HEALTHY, RECIPE.replace(lr=0.02), repair=True, progress=False)
    assert found.healthy
    assert str(found) == "healthy"
    assert found.repair is None


def test_the_watched_run_is_that_of_train() -> None:
    found = etude.diagnose(HEALTHY, RECIPE, progress=False)
    plain = etude.train(HEALTHY, RECIPE)
    assert found.record is not None
    assert found.record.evaluations == plain.evaluations
    pairs = zip(found.record.model.parameters(), plain.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.slow
def test_deep_sigmoids_are_named_located_and_mended() -> None:
    found = etude.diagnose(DEEP, RECIPE, repair=True, progress=False, engine="loop")
    causes = {one.what: one for one in found.findings if isinstance(one.what, Cause)}
    assert list(causes) == [Cause.SATURATING_ACTIVATION]
    assert causes[Cause.SATURATING_ACTIVATION].layer == "0"
    assert found.repair is not None
    assert found.repair.task is not None
    mended = etude.train(found.repair.task, found.repair.recipe)
    assert mended.evaluations[-1].metric > 0.9
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.slow
def test_deep_networks_without_sigmoids_are_not_blamed_on_them() -> None:
    relu = Task(lambda: deep(nn.ReLU), points(), loss=cross_entropy, name="relu")
    found = etude.diagnose(relu, RECIPE, progress=False)
    assert Cause.SATURATING_ACTIVATION not in {one.what for one in found.findings}


def history_of(*layers: LayerInfo) -> History:
    """A history of these layers without readings."""
    empty = np.empty(0)
    return History(100, empty, empty, np.empty(0, int), layers=layers)


def layer(number: int, activation: str = "", **more: bool) -> LayerInfo:
    """A linear layer."""
    return LayerInfo(str(number), "linear", number, activation=activation, **more)


VANISHING = Finding(Symptom.VANISHING, "", layer="0", step=7)


def test_sigmoids_are_blamed_only_where_a_gradient_vanishes_through_them() -> None:
    sigmoids = [layer(i, "sigmoid") for i in range(4)]
    head = layer(4, output=True)
    assert saturating_activation(history_of(*sigmoids, head), []) == []
    (cause,) = saturating_activation(history_of(*sigmoids, head), [VANISHING])
    assert (cause.what, cause.layer, cause.step) == (Cause.SATURATING_ACTIVATION, "0", 7)
    assert "4 hidden layers have a sigmoid" in cause.text
    mixed = [*sigmoids[:2], layer(2, "relu"), layer(3, "relu"), head]
    assert saturating_activation(history_of(*mixed), [VANISHING]) == []
    gates = [layer(i, "sigmoid", gate=True) for i in range(4)]
    assert saturating_activation(history_of(*gates, head), [VANISHING]) == []


def test_a_tanh_is_blamed_only_where_it_is_flat() -> None:
    tanhs = [layer(i, "tanh") for i in range(4)]
    assert saturating_activation(history_of(*tanhs), [VANISHING]) == []
    flat = Finding(Symptom.SATURATED, "", layer="2", step=9)
    (cause,) = saturating_activation(history_of(*tanhs), [flat])
    assert (cause.layer, cause.step) == ("2", 9)


def test_every_symptom_that_a_remedy_can_mend_has_suspects() -> None:
    assert set(Symptom) - set(SUSPECTS) == {Symptom.SILENT_PARAMETER}
    found = [Finding(symptom, "") for symptom in Symptom]
    assert len(set(suspects(found))) == len(suspects(found))
    assert stated(found) == ()


@pytest.mark.slow
def test_overfitting_is_stated_with_numbers_that_the_run_has() -> None:
    noisy = Task(
        lambda: mlp(6, 64, 64, 2), points(768, flips=0.3), loss=cross_entropy, name="noisy"
    )
    found = etude.diagnose(noisy, RECIPE.replace(lr=0.02, steps=600), progress=False)
    (finding,) = [one for one in found.findings if one.what == Symptom.OVERFITTING]
    assert found.record is not None
    losses = {e.step: e.loss for e in found.record.evaluations}
    assert losses[finding.step] == min(losses.values()) == finding.evidence["lowest"]
    assert finding.evidence["last"] == found.record.evaluations[-1].loss
    lowest, last = re.findall(r"\((\d.*?)\) and rose to (\d\S+),", finding.text)[0]
    assert float(last) > float(lowest)
    stopped = etude.train(noisy, RECIPE.replace(lr=0.02, steps=600, early_stopping=3))
    assert stopped.evaluations[-1].loss == finding.evidence["lowest"]


def test_a_run_that_still_learns_does_not_overfit() -> None:
    assert overfitting(etude.train(HEALTHY, RECIPE), HEALTHY) == ()


def test_a_task_that_cannot_be_trained_keeps_its_error() -> None:
    x, y = points()
    wrong = Task(lambda: nn.Linear(5, 2), (x, y), loss=cross_entropy)
    with pytest.raises(TaskError, match="the model failed on inputs"):
        etude.diagnose(wrong, RECIPE, progress=False)


def test_a_budget_that_is_too_small_is_refused() -> None:
    with pytest.raises(BadValueError, match=r"at least 2\.5"):
        etude.diagnose(HEALTHY, RECIPE, repair=True, budget=1.0, progress=False)
