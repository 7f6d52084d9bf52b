"""What the check finds with certainty is the verdict: nothing is trained, and it is no estimate."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import etude
from etude import Recipe, Task, report
from etude.diagnosis.check.reach import missing_from_optimizer
from etude.diagnosis.finding import Cause, Finding, Symptom
from etude.diagnosis.health.finding_plain import finding_of
from etude.diagnosis.verdict.evidence import Evidence
from etude.diagnosis.verdict.judge import FIRST, certain, judge
from tests.helpers import mlp

RECIPE = Recipe(lr=1e-2, steps=64, batch_size=32)


def data() -> tuple[Tensor, Tensor]:
    """Six numbers a sample, and one of three classes."""
    x = torch.randn(192, 6, generator=torch.Generator().manual_seed(3))
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


def changed(place: str, value: float, row: int = 17) -> tuple[Tensor, Tensor]:
    """The data with one value replaced."""
    x, y = data()
    y = y if place == "inputs" else y.float()[:, None]
    (x if place == "inputs" else y)[row, 0] = value
    return x, y


def classes(outputs: int = 3, train: Any = None, **more: Any) -> Task:
    return Task(lambda: mlp(6, 16, outputs), train or data(), loss=F.cross_entropy, **more)


def logistic(loss: Any, targets: Tensor) -> Task:
    network = lambda: nn.Sequential(mlp(6, 16, 1), nn.Sigmoid())  # noqa: E731
    plain = lambda: mlp(6, 16, 1)  # noqa: E731
    model = network if loss is F.binary_cross_entropy else plain
    return Task(model, (data()[0], targets), loss=loss)


class Frozen(nn.Module):
    """A network of which nothing is trained; with `detached`, its output has no graph."""

    def __init__(self, detached: bool = False) -> None:
        super().__init__()
        self.net, self.detached = mlp(6, 16, 3), detached
        self.net.requires_grad_(detached)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x)
        return y.detach() if self.detached else y


X, Y = data()
HELD = (X[:40].clone(), Y[:40].clone())
BROKEN = (torch.where(torch.arange(40)[:, None] == 5, math.nan, X[:40] + 1.0), Y[:40])
MSE = F.mse_loss

CERTAIN: dict[str, tuple[Cause, str, Callable[[], Task]]] = {
    "NaN in an input": (
        Cause.BAD_DATA, "the first in row 17", lambda: classes(train=changed("inputs", math.nan)),
    ),
    "Inf in a target": (
        Cause.BAD_DATA, "the first in row 17",
        lambda: Task(lambda: mlp(6, 16, 1), changed("targets", math.inf), loss=MSE),
    ),
    "NaN in the validation data": (
        Cause.BAD_DATA, "In the validation data, ", lambda: classes(valid=BROKEN),
    ),
    "inputs that are all alike": (
        Cause.BAD_DATA, "have the same inputs", lambda: classes(train=(X[:1].expand_as(X), Y)),
    ),
    "one class": (
        Cause.LABELS_DO_NOT_MATCH, "there is one class only",
        lambda: classes(train=(X, torch.ones_like(Y))),
    ),
    "a label below 0": (
        Cause.LABELS_DO_NOT_MATCH, "go down to -1", lambda: classes(train=(X, Y - 1)),
    ),
    "no training label that counts": (
        Cause.LABELS_DO_NOT_MATCH, "training labels are -100, which the loss passes over",
        lambda: classes(train=(X, torch.full_like(Y, -100)), valid=HELD),
    ),
    "no validation label that counts": (
        Cause.LABELS_DO_NOT_MATCH, "All 40 validation labels are -100",
        lambda: classes(valid=(HELD[0], torch.full_like(HELD[1], -100))),
    ),
    "a label without an output": (
        Cause.WRONG_LAST_LAYER, "go up to 2, but the network has 2 outputs", lambda: classes(2),
    ),
    "a validation label without an output": (
        Cause.WRONG_LAST_LAYER, "The validation labels go up to 3",
        lambda: classes(valid=(HELD[0], HELD[1] + 1)),
    ),
    "one output for classes": (
        Cause.WRONG_LAST_LAYER, "The network has 1 output",
        lambda: classes(1),
    ),
    "labels that are no whole numbers": (
        Cause.WRONG_LOSS_OR_OUTPUT, "takes class numbers", lambda: classes(train=(X, Y.float())),
    ),
    "whole numbers for a logistic loss": (
        Cause.WRONG_LOSS_OR_OUTPUT, "takes floating-point",
        lambda: logistic(F.binary_cross_entropy_with_logits, (Y > 0).long()[:, None]),
    ),
    "logistic targets beyond 1": (
        Cause.LABELS_DO_NOT_MATCH, "go from 0 to 2",
        lambda: logistic(F.binary_cross_entropy_with_logits, Y.float()[:, None]),
    ),
    "probabilities beyond 1": (
        Cause.LABELS_DO_NOT_MATCH, "go from 0 to 2",
        lambda: logistic(F.binary_cross_entropy, Y.float()[:, None]),
    ),
    "nothing to train": (
        Cause.PARAMETERS_NOT_TRAINED, "None of the network's 4 parameters is trainable",
        lambda: Task(Frozen, data(), loss=F.cross_entropy),
    ),
    "no graph": (
        Cause.PARAMETERS_NOT_TRAINED, "depends on none of the 4 trainable parameters",
        lambda: Task(lambda: Frozen(detached=True), data(), loss=F.cross_entropy),
    ),
}  # fmt: skip


@pytest.fixture
def nothing_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where `diagnose` trains a run, a probe or a remedy."""
    from etude.diagnosis import diagnose

    def trains(*args: Any, **more: Any) -> None:
        pytest.fail("it was trained")

    for name in ("_watched", "probe", "_repair"):
        monkeypatch.setattr(diagnose, name, trains)


@pytest.mark.usefixtures("nothing_trained")
@pytest.mark.parametrize("name", CERTAIN)
def test_every_certain_fact_is_the_verdict_without_a_run(name: str) -> None:
    cause, text, task = CERTAIN[name]
    found = etude.diagnose(task(), RECIPE, repair=True, progress=False)
    verdict = found.verdict
    assert verdict is not None
    assert (verdict.faulty, verdict.cause, verdict.probability) == (True, cause, 1.0)
    assert any(text in sentence for sentence in verdict.evidence), verdict.evidence
    assert "no estimate" in verdict.reliability
    assert (found.record, found.history, found.repair, found.probes) == (None, None, None, None)
    assert not found.healthy
    assert str(found).startswith(f"{cause}")
    assert "(certain): " in str(found).splitlines()[0]
    assert "not seen: Remedies: none was tried" in str(found)
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["verdict"]["probability"] == 1.0
    assert any(one["certain"] for one in plain["findings"])
    assert report.present(found).title.endswith("(certain)")


NOT_CERTAIN: dict[str, Callable[[], Task]] = {
    "nothing is wrong": classes,
    "a softmax before cross_entropy": lambda: Task(
        lambda: nn.Sequential(mlp(6, 16, 3), nn.Softmax(1)), data(), loss=F.cross_entropy
    ),
    "unscaled inputs": lambda: classes(train=(1e3 * X, Y)),
    "copies in validation": lambda: classes(valid=HELD),
    "labels that the loss passes over": lambda: classes(
        train=(X, torch.where(torch.arange(len(Y)) % 5 == 0, -100, Y))
    ),
}


@pytest.mark.parametrize("name", NOT_CERTAIN)
def test_what_a_run_could_contradict_is_not_certain(name: str) -> None:
    found = etude.check(NOT_CERTAIN[name](), RECIPE)
    assert certain(found.findings) == ()


def test_a_fact_that_a_run_can_show_more_of_is_trained() -> None:
    task = NOT_CERTAIN["a softmax before cross_entropy"]()
    found = etude.diagnose(task, RECIPE, progress=False)
    assert found.record is not None
    assert found.verdict is not None
    assert found.verdict.cause == Cause.WRONG_LOSS_OR_OUTPUT
    assert 0.9 < found.verdict.probability < 1.0


def test_a_loss_of_0_throughout_does_not_say_that_the_inputs_are_ignored() -> None:
    found = etude.check(CERTAIN["no training label that counts"][2](), RECIPE)
    assert Symptom.CONSTANT_OUTPUT not in [one.what for one in found.findings]
    assert any("the loss of every update is 0" in said for said in found.unseen)


def test_labels_that_the_loss_does_not_compare_are_not_judged() -> None:
    """An autoencoder whose data has a label of 0 in every row, as a loader of pictures gives."""

    class Auto(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(6, 16, 6)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.net(x), (x > 0).float()

    def loss(output: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(*output)

    task = Task(Auto, (X, torch.zeros_like(Y)), loss=loss)
    assert Cause.LABELS_DO_NOT_MATCH not in [f.what for f in etude.check(task, RECIPE).findings]


def test_parameters_that_the_optimizer_lacks_are_certain() -> None:
    net = mlp(6, 16, 3)
    found = missing_from_optimizer(net, torch.optim.SGD(list(net.parameters())[:2], lr=0.1))
    verdict = judge(Evidence(tuple(found)))
    assert verdict is not None
    assert (verdict.cause, verdict.probability) == (Cause.PARAMETERS_NOT_TRAINED, 1.0)
    assert verdict.layer == found[0].layer


causes = st.lists(st.tuples(st.sampled_from([*Cause]), st.booleans()), max_size=6)


@given(causes, st.randoms())
def test_what_is_certain_comes_first_whatever_the_order(
    given_: list[tuple[Cause, bool]], draw: Any
) -> None:
    findings = [Finding(cause, "It is so.", certain=sure) for cause, sure in given_]
    mixed = list(findings)
    draw.shuffle(mixed)
    proved = certain(findings)
    assert certain(mixed) == proved
    assert set(proved) == {cause for cause, sure in given_ if sure}
    verdict = judge(Evidence(tuple(findings)))
    if not proved:
        assert verdict is None
        return
    assert verdict is not None
    assert verdict.cause == proved[0]
    assert verdict.ranked == tuple((cause, 1.0) for cause in proved)
    data_first = [cause for cause in FIRST if cause in proved]
    assert list(proved[: len(data_first)]) == data_first


@given(st.booleans())
def test_certainty_is_kept_in_json(sure: bool) -> None:
    one = Finding(Cause.BAD_DATA, "3 inputs are NaN.", evidence={"nan": 3.0}, certain=sure)
    assert finding_of(json.loads(json.dumps(one.to_dict()))) == one
    earlier = {name: value for name, value in one.to_dict().items() if name != "certain"}
    assert finding_of(earlier) == replace(one, certain=False)
