"""Causes that a watch states from the loss, the targets, the inputs and the optimizer."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from etude.diagnosis.evidence.beginning import samples_look_alike
from etude.diagnosis.finding import Cause, Symptom
from tests.diagnosis.programs import classes, fit, net, opened


def whats(w):
    return {finding.what for finding in w.report().findings}


def trained(model, x, y, loss=F.cross_entropy, optimizer=torch.optim.SGD, lr=0.05, **more):
    """A short loop, watched."""
    options = more.pop("options", {})
    torch.manual_seed(2)
    made = optimizer(model.parameters(), lr=lr, **options)
    return fit(model, made, x, y, loss=loss, **{"updates": 60, **more})


def seeded(*sizes, last=None, **more):
    torch.manual_seed(0)
    model = net(*sizes, **more)
    return model if last is None else nn.Sequential(model, last)


def numbers(scale=1.0, shift=0.0):
    x, _ = classes()
    return x, scale * (x[:, :1] - x[:, 1:2]) + shift


# ---- what the loss is given -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "cause"),
    [
        (nn.Softmax(1), Cause.WRONG_LOSS_OR_OUTPUT),
        (nn.Sigmoid(), Cause.WRONG_LOSS_OR_OUTPUT),
        (nn.Tanh(), Cause.WRONG_LAST_LAYER),
        (nn.LogSoftmax(1), None),
        (nn.Identity(), None),
    ],
)
@pytest.mark.parametrize("divided", [1, 4])
def test_an_activation_before_cross_entropy_is_seen_in_the_graph(last, cause, divided):
    x, y = classes()
    w = trained(
        seeded(8, 16, 3, last=last), x, y, lambda o, t: F.cross_entropy(o, t) / divided, updates=12
    )
    assert whats(w) == ({cause} if cause else set())


def test_a_doubled_sigmoid_and_targets_out_of_reach():
    x, y = classes(kinds=2)
    y = y.float()[:, None]
    double = seeded(8, 16, 1, last=nn.Sigmoid())
    w = trained(double, x, y, F.binary_cross_entropy_with_logits, updates=12)
    assert whats(w) == {Cause.WRONG_LOSS_OR_OUTPUT}
    for loss in (F.mse_loss, F.smooth_l1_loss, F.huber_loss):
        w = trained(seeded(8, 16, 1, last=nn.Sigmoid()), *numbers(), loss, updates=12)
        assert whats(w) == {Cause.WRONG_LAST_LAYER}
        assert trained(seeded(8, 16, 1), *numbers(), loss, updates=20).report().healthy


def test_a_loss_of_ones_own_that_broadcasts():
    x, y = numbers()
    w = trained(seeded(8, 16, 1), x, y[:, 0], lambda o, t: ((o - t) ** 2).mean(), updates=12)
    assert whats(w) == {Cause.WRONG_LOSS_OR_OUTPUT}
    assert "32×32" in w.report().findings[0].text
    w = trained(seeded(8, 16, 1), x, y, lambda o, t: ((o - t) ** 2).mean(), updates=20)
    assert w.report().healthy


# ---- scales -----------------------------------------------------------------------------------


def test_inputs_and_targets_far_from_one():
    x, y = classes()
    w = trained(seeded(8, 16, 3), 1000 * x, y)
    assert Cause.UNSCALED_INPUTS in whats(w)
    w = trained(seeded(8, 16, 1), *numbers(1000.0, 5000.0), F.mse_loss, torch.optim.Adam, 1e-3)
    assert Cause.UNSCALED_TARGETS in whats(w)
    own = nn.Sequential(nn.BatchNorm1d(8), seeded(8, 16, 3))
    assert trained(own, 1000 * x, y).report().healthy


# ---- the batches ------------------------------------------------------------------------------


def in_order(model, x, y, loss, batch=32, updates=60):
    """A loop that reads the samples as they lie."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with opened(model, optimizer) as w:
        for t in range(updates):
            rows = torch.arange(t * batch, (t + 1) * batch) % len(x)
            optimizer.zero_grad()
            loss(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return w


@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_sorted_samples_and_samples_in_random_order(kind):
    x, y = classes() if kind == "classes" else numbers()
    loss = F.cross_entropy if kind == "classes" else F.mse_loss
    order = y.flatten().argsort()
    outputs = 3 if kind == "classes" else 1
    assert Cause.DATA_NOT_SHUFFLED in whats(
        in_order(seeded(8, 16, outputs), x[order], y[order], loss)
    )
    assert in_order(seeded(8, 16, outputs), x, y, loss).report().healthy


def test_batch_normalisation_over_two_samples():
    x, y = classes()
    between = lambda width: [nn.BatchNorm1d(width), nn.ReLU()]  # noqa: E731
    two = trained(seeded(8, 16, 3, between=between), x, y, batch=2)
    assert Cause.BATCH_TOO_SMALL in whats(two)
    many = trained(seeded(8, 16, 3, between=between), x, y, batch=16)
    assert many.report().healthy
    without = trained(seeded(8, 16, 3), x, y, batch=2, lr=0.01)
    assert without.report().healthy


def test_rprop_on_batches_that_differ_and_on_all_samples():
    x, y = classes(count=128)
    some = trained(seeded(8, 16, 3), x, y, optimizer=torch.optim.Rprop, lr=1e-3)
    assert Cause.OPTIMIZER_MISMATCH in whats(some)
    model = seeded(8, 16, 3)
    optimizer = torch.optim.Rprop(model.parameters(), lr=1e-3)
    with opened(model, optimizer) as w:
        for _ in range(40):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    assert w.report().healthy


# ---- the optimizer ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "lr", "strong", "usual"),
    [
        (torch.optim.SGD, 0.1, 1.0, 1e-4),
        (torch.optim.Adam, 0.01, 3.0, 1e-4),
        (torch.optim.AdamW, 0.01, 30.0, 0.05),
    ],
)
def test_a_decay_that_outweighs_the_loss(optimizer, lr, strong, usual):
    x, y = classes()
    run = partial(trained, x=x, y=y, optimizer=optimizer, lr=lr, updates=150)
    assert Cause.TOO_MUCH_REGULARISATION in whats(
        run(seeded(8, 16, 3), options={"weight_decay": strong})
    )
    assert run(seeded(8, 16, 3), options={"weight_decay": usual}).report().healthy


def test_a_rate_at_which_nothing_moves():
    x, y = classes()
    low = trained(seeded(8, 16, 3), x, y, lr=1e-4, updates=150)
    assert Cause.LR_TOO_LOW in whats(low)
    assert trained(seeded(8, 16, 3), x, y, lr=0.1, updates=150).report().healthy


# ---- the beginning ----------------------------------------------------------------------------


def test_a_head_drawn_far_too_large():
    x, y = classes()

    def times(factor):
        model = seeded(8, 16, 3)
        with torch.no_grad():
            model[2].weight.mul_(factor)
        return model

    adam = partial(trained, x=x, y=y, optimizer=torch.optim.Adam, lr=1e-3)
    assert Cause.BAD_INITIALISATION in whats(adam(times(300)))
    assert adam(times(1)).report().healthy


def test_a_deep_network_to_whose_last_layer_all_samples_look_alike():
    x, y = classes()
    tanh = lambda width: [nn.Tanh()]  # noqa: E731
    deep = seeded(8, *[16] * 20, 3, between=tanh)
    w = trained(deep, x, y, lr=0.05)
    assert Symptom.VANISHING in whats(w)
    (found,) = samples_look_alike(w.report().history)
    assert found.step == 0
    assert found.evidence["spread"] < 0.01
    assert trained(seeded(8, 16, 16, 3, between=tanh), x, y, lr=0.2).report().healthy


class Recurrent(nn.Module):
    """A recurrent layer whose weights are multiplied, and a linear one."""

    def __init__(self, kind, factor=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.rnn = kind(2, 16, batch_first=True)
        self.head = nn.Linear(16, 2)
        with torch.no_grad():
            for weight in self.rnn.parameters():
                weight.mul_(factor)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_recurrent_layers_that_are_saturated_before_training(kind):
    torch.manual_seed(1)
    x = torch.randn(256, 6, 2)
    y = (x[:, :, 0].mean(1) > 0).long()
    w = trained(Recurrent(kind, 40.0), x, y, lr=1e-3)
    share = w.report().history.of_layers("gates_saturated")[0, 0]
    assert share > 0.5
    assert {Symptom.SATURATED, Cause.BAD_INITIALISATION} <= whats(w)
    w = trained(Recurrent(kind), x, y, optimizer=torch.optim.Adam, lr=0.01)
    assert w.report().history.of_layers("gates_saturated")[0, 0] < 0.05
    assert w.report().healthy


# ---- the end ----------------------------------------------------------------------------------


def test_a_run_that_ends_no_better_than_a_constant():
    x, y = classes()
    torch.manual_seed(3)
    model = seeded(8, 16, 3)
    nn.init.zeros_(model[2].weight)
    model[2].weight.requires_grad_(False)
    w = trained(model, x, y, updates=150)
    assert Symptom.STALLED in whats(w)
    going_on = opened(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert Symptom.STALLED not in whats(going_on)
    going_on.close()


def test_a_block_left_by_an_error_has_not_ended():
    x, y = classes()
    model = seeded(8, 16, 3)
    nn.init.zeros_(model[2].weight)
    model[2].weight.requires_grad_(False)

    def stop(t):
        if t == 140:
            raise KeyboardInterrupt

    optimizer, told = torch.optim.SGD(model.parameters(), lr=0.05), []
    with pytest.raises(KeyboardInterrupt, match=""):
        fit(model, optimizer, x, y, each=stop, on_finding=told.append)
    assert Symptom.STALLED not in {one.what for one in told}


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("batch_first", [True, False])
def test_the_gates_of_one_layer_are_those_of_a_layer_that_is_computed_again(
    kind, layers, batch_first
):
    """Of one layer the outputs are there; of the first of two layers they are computed again."""
    x = torch.randn(9, 7, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    alone = kind(4, 5, batch_first=batch_first)
    both = kind(4, 5, num_layers=layers, batch_first=batch_first)
    both.load_state_dict(alone.state_dict(), strict=False)
    with torch.no_grad():
        for one in (alone, both):
            one.weight_ih_l0.mul_(8)
            one.load_state_dict({**one.state_dict(), "weight_ih_l0": alone.weight_ih_l0})
    shares = []
    for model in (alone, both):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        with opened(model, optimizer, every=1) as w:
            model(x)[0].square().mean().backward()
            optimizer.step()
        shares.append(w.report().history.of_layers("gates_saturated")[0, 0])
    assert 0 < shares[0] < 1
    assert shares[0] == pytest.approx(shares[1])
