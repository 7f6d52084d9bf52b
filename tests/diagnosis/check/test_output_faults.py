"""Faults of the last layer and the loss, on several kinds of network, and no other one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import etude
from etude.diagnosis.finding import Cause
from tests.diagnosis.check.programs import (
    NETWORKS,
    RECIPE,
    before_training,
    binary,
    each,
    images,
    mlp,
    numbers,
    task,
    the,
    whats,
)


@each
def test_a_healthy_task_is_healthy(name):
    found = etude.check(task(NETWORKS[name]), RECIPE)
    assert found.healthy, found
    assert len(found.seen) >= 13
    assert not found.unseen


@each
def test_a_healthy_regression_is_healthy(name):
    found = etude.check(task(lambda: NETWORKS[name](1), numbers(name), F.mse_loss), RECIPE)
    assert found.healthy, found


@before_training
@each
@pytest.mark.parametrize(
    ("last", "cause"),
    [
        (nn.Softmax(1), Cause.WRONG_LOSS_OR_OUTPUT),
        (nn.Sigmoid(), Cause.WRONG_LOSS_OR_OUTPUT),
        (nn.ReLU(), Cause.WRONG_LAST_LAYER),
        (nn.Tanh(), Cause.WRONG_LAST_LAYER),
    ],
)
def test_an_activation_before_cross_entropy(name, last, cause):
    found = etude.check(task(lambda: nn.Sequential(NETWORKS[name](), last)), RECIPE)
    assert found.findings[0].what == cause
    assert type(last).__name__.lower() in found.findings[0].text


@each
def test_log_probabilities_are_fine(name):
    network = lambda: nn.Sequential(NETWORKS[name](), nn.LogSoftmax(1))  # noqa: E731
    assert etude.check(task(network), RECIPE).healthy
    assert etude.check(task(network, loss=F.nll_loss), RECIPE).healthy


def test_a_softmax_of_the_users_own_is_seen_by_its_values():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()

        def forward(self, x: Tensor) -> Tensor:
            shares = self.net(x).exp()
            return shares / shares.sum(1, keepdim=True)

    assert etude.check(task(Own), RECIPE).findings[0].what == Cause.WRONG_LOSS_OR_OUTPUT


@before_training
@each
def test_logits_into_nll_loss(name):
    found = etude.check(task(NETWORKS[name], loss=F.nll_loss), RECIPE)
    assert found.findings[0].what == Cause.WRONG_LOSS_OR_OUTPUT
    assert "log-probabilities" in found.findings[0].text


@each
def test_a_doubled_and_a_missing_sigmoid(name):
    one = lambda: NETWORKS[name](1)  # noqa: E731
    closed = lambda: nn.Sequential(one(), nn.Sigmoid())  # noqa: E731
    logits, plain = F.binary_cross_entropy_with_logits, F.binary_cross_entropy
    assert etude.check(task(one, binary(), logits), RECIPE).healthy
    assert etude.check(task(closed, binary(), plain), RECIPE).healthy
    assert the(etude.check(task(closed, binary(), logits), RECIPE)).what == (
        Cause.WRONG_LOSS_OR_OUTPUT
    )
    missing = etude.check(task(one, binary(), plain), RECIPE)
    assert the(missing).what == Cause.WRONG_LOSS_OR_OUTPUT


@before_training
@each
def test_targets_that_the_last_activation_cannot_reach(name):
    x, y = numbers(name)
    y = (y - y.mean()) / y.std()
    for last in (nn.ReLU(), nn.Sigmoid()):
        found = etude.check(
            task(lambda last=last: nn.Sequential(NETWORKS[name](1), last), (x, y), F.mse_loss),
            RECIPE,
        )
        assert found.findings[0].what == Cause.WRONG_LAST_LAYER
    inside = (y - y.min()) / (y.max() - y.min())
    closed = lambda: nn.Sequential(NETWORKS[name](1), nn.Sigmoid())  # noqa: E731
    assert etude.check(task(closed, (x, inside), F.mse_loss), RECIPE).healthy


@each
def test_too_few_outputs_for_the_labels(name):
    found = etude.check(task(lambda: NETWORKS[name](3)), RECIPE)
    assert the(found).what == Cause.WRONG_LAST_LAYER
    assert the(found).evidence["highest"] == 3
    assert found.unseen


@each
def test_one_output_for_cross_entropy(name):
    x, y = images()
    found = etude.check(task(lambda: NETWORKS[name](1), (x, torch.zeros_like(y))), RECIPE)
    assert found.findings[0].what == Cause.WRONG_LAST_LAYER


@each
def test_labels_of_a_type_or_sign_that_do_not_fit(name):
    x, y = images()
    floats = etude.check(task(NETWORKS[name], (x, y.float())), RECIPE)
    assert the(floats).what == Cause.WRONG_LOSS_OR_OUTPUT
    assert ".long()" in the(floats).fix
    negative = etude.check(task(NETWORKS[name], (x, y - 1)), RECIPE)
    assert the(negative).what == Cause.LABELS_DO_NOT_MATCH
    padded = y.clone()
    padded[::10] = -100
    assert etude.check(task(NETWORKS[name], (x, padded)), RECIPE).healthy


@each
def test_targets_that_broadcast(name):
    x, y = numbers(name)
    found = etude.check(task(lambda: NETWORKS[name](1), (x, y.flatten()), F.mse_loss), RECIPE)
    assert the(found).what == Cause.WRONG_LOSS_OR_OUTPUT
    assert the(found).evidence == {"output": "(32, 1)", "targets": "(32,)"}


@each
def test_a_loss_of_ones_own_that_broadcasts(name):
    def squares(output: Tensor, target: Tensor) -> Tensor:
        return ((output - target) ** 2).mean()

    x, y = numbers(name)
    one = lambda: NETWORKS[name](1)  # noqa: E731
    found = etude.check(task(one, (x, y.flatten()), squares), RECIPE)
    assert Cause.WRONG_LOSS_OR_OUTPUT in whats(found)
    assert etude.check(task(one, (x, y), squares), RECIPE).healthy
