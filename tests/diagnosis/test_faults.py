"""A faulty loop is named by what is wrong with it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from etude.diagnosis.finding import Cause, Symptom
from tests.diagnosis.programs import ConvNet, classes, fit, net, opened, pictures


def found(w):
    return {finding.what: finding for finding in w.report().findings}


def test_gradients_that_are_never_cleared():
    x, y = classes()
    torch.manual_seed(0)
    model = net(8, 16, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    with opened(model, optimizer) as w:
        for _ in range(12):
            i = torch.randint(0, len(x), (32,))
            cross_entropy(model(x[i]), y[i]).backward()
            optimizer.step()
    finding = found(w)[Cause.GRADIENTS_NOT_CLEARED]
    assert finding.step in (1, 2, 3)
    assert "zero_grad" in finding.fix
    assert len(w.report().findings) == 1


def clear_before(optimizer, model):
    optimizer.zero_grad()


def clear_in_place(optimizer, model):
    optimizer.zero_grad(set_to_none=False)


def clear_through_data(optimizer, model):
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.data.zero_()


def clear_by_a_factor(optimizer, model):
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.mul_(0)


def clear_by_hand(optimizer, model):
    for parameter in model.parameters():
        parameter.grad = None


WAYS = [clear_before, clear_in_place, clear_through_data, clear_by_a_factor, clear_by_hand]


@pytest.mark.parametrize("clear", WAYS)
def test_gradients_that_are_cleared_before_the_step(clear):
    x, y = classes()
    torch.manual_seed(0)
    model = net(8, 16, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with opened(model, optimizer) as w:
        for _ in range(40):
            i = torch.randint(0, len(x), (32,))
            cross_entropy(model(x[i]), y[i]).backward()
            clear(optimizer, model)
            optimizer.step()
    (finding,) = w.report().findings
    assert finding.what == Cause.PARAMETERS_NOT_TRAINED
    assert "between the backward pass and the step" in finding.text
    verdict = w.report().verdict
    assert (verdict.cause, verdict.follows) == (Cause.PARAMETERS_NOT_TRAINED, ())


@pytest.mark.parametrize("kind", ["clipped", "dead", "frozen by a rate of 0"])
def test_gradients_that_are_changed_or_zero_are_not_called_cleared(kind):
    x, y = classes()
    torch.manual_seed(0)
    model = net(8, 16, 3)
    if kind == "dead":
        model.append(nn.ReLU())
        model[-2].bias.data.fill_(-100.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0 if "rate" in kind else 0.05)
    with opened(model, optimizer) as w:
        for _ in range(40):
            i = torch.randint(0, len(x), (32,))
            optimizer.zero_grad()
            cross_entropy(model(x[i]), y[i]).backward()
            if kind == "clipped":
                nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
    assert Cause.PARAMETERS_NOT_TRAINED not in found(w)


@pytest.mark.parametrize("late", [False, True], ids=["before forward", "before backward"])
@pytest.mark.parametrize("clear", WAYS)
def test_every_way_to_clear_gradients_is_known(clear, late):
    x, y = classes()
    torch.manual_seed(0)
    model = net(8, 16, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with opened(model, optimizer, every=1) as w:
        for _ in range(20):
            i = torch.randint(0, len(x), (32,))
            if not late:
                clear(optimizer, model)
            loss = cross_entropy(model(x[i]), y[i])
            if late:
                clear(optimizer, model)
            loss.backward()
            optimizer.step()
    assert w.report().healthy


def test_a_model_left_in_evaluation_mode():
    x, y = pictures()
    torch.manual_seed(0)
    model = ConvNet()

    def evaluate(t):
        if t == 6:
            model.eval()

    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    w = fit(model, optimizer, x, y, updates=40, each=evaluate, every=1)
    finding = found(w)[Cause.EVAL_MODE_IN_TRAINING]
    assert (finding.layer, finding.step) == ("bn1", 6)
    assert set(found(w)) == {Cause.EVAL_MODE_IN_TRAINING}


def test_a_layer_that_no_optimizer_holds():
    x, y = classes()
    torch.manual_seed(0)
    model = net(8, 16, 16, 3)
    held = [*model[0].parameters(), *model[4].parameters()]
    w = fit(model, torch.optim.SGD(held, lr=0.05), x, y, updates=40)
    finding = found(w)[Cause.PARAMETERS_NOT_TRAINED]
    assert finding.layer == "2"
    assert finding.text == (
        "2.weight and 2.bias require a gradient and got one, but no optimizer holds them."
    )
    assert set(found(w)) == {Cause.PARAMETERS_NOT_TRAINED}


def test_a_second_optimizer_that_is_not_watched_is_seen_by_the_weights_it_moves():
    x, y = classes()
    torch.manual_seed(0)
    model = net(8, 16, 3)
    other = torch.optim.SGD(model[2].parameters(), lr=0.05)
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.05)
    with opened(model, optimizer, every=1) as w:
        for _ in range(20):
            optimizer.zero_grad(), other.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step(), other.step()
    assert w.report().healthy


def test_an_optimizer_of_another_model():
    x, y = classes()
    torch.manual_seed(0)
    model, other = net(8, 16, 3), net(8, 16, 3)
    w = fit(model, torch.optim.SGD(other.parameters(), lr=0.05), x, y, updates=20)
    finding = found(w)[Cause.PARAMETERS_NOT_TRAINED]
    assert finding.text == "The optimizer holds none of the model's 4 parameters."


def test_a_layer_that_the_loss_does_not_reach():
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 3)

        def forward(self, x):
            return self.second(torch.relu(self.first(x)).detach())

    x, y = classes()
    torch.manual_seed(0)
    model = Detached()
    w = fit(model, torch.optim.SGD(model.parameters(), lr=0.05), x, y, updates=40)
    assert set(found(w)) == {Symptom.SILENT_PARAMETER}
    assert found(w)[Symptom.SILENT_PARAMETER].layer == "first"


def test_a_loop_without_backward():
    x, y = classes()
    model = net(8, 16, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with opened(model, optimizer) as w:
        for _ in range(40):
            cross_entropy(model(x), y)
            optimizer.step()
    finding = found(w)[Symptom.SILENT_PARAMETER]
    assert finding.text == "At the steps, no parameter of the model has a gradient other than 0."
    assert "losses were not seen" in " ".join(w.report().unseen)


def test_units_that_died():
    x, y = classes()
    torch.manual_seed(0)
    model = net(8, 16, 16, 3)
    nn.init.constant_(model[2].bias, -50.0)
    w = fit(model, torch.optim.SGD(model.parameters(), lr=0.05), x, y, updates=60)
    finding = found(w)[Symptom.DEAD]
    assert finding.layer == "2"
    assert finding.text.startswith("16 of the 16 units after 2 are dead")
    assert Symptom.CONSTANT_OUTPUT in found(w)


def test_units_that_are_saturated():
    x, y = classes()
    torch.manual_seed(0)
    model = net(8, 16, 16, 3, between=lambda width: [nn.Tanh()])
    w = fit(model, torch.optim.SGD(model.parameters(), lr=1e-6), 1e4 * x, y, updates=60)
    finding = found(w)[Symptom.SATURATED]
    assert finding.layer == "0"
    assert finding.evidence["share"] > 0.99


def test_a_missing_value_explodes_and_kills_no_unit():
    x, y = classes()
    x[::50] = float("nan")
    torch.manual_seed(0)
    model = net(8, 16, 16, 3)
    w = fit(model, torch.optim.SGD(model.parameters(), lr=0.05), x, y, updates=60)
    assert set(found(w)) == {Symptom.EXPLODING, Symptom.DIVERGING}


@pytest.mark.parametrize("rate", [1.0, 30.0])
def test_a_rate_far_too_high(rate):
    torch.manual_seed(1)
    x = torch.randn(256, 8)
    y = x.sum(1, keepdim=True)
    torch.manual_seed(0)
    model = net(8, 32, 32, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    w = fit(model, optimizer, x, y, loss=mse_loss, updates=60)
    assert found(w).keys() & {Symptom.EXPLODING, Symptom.DIVERGING}


def test_a_deep_sigmoid_network_vanishes_towards_the_input():
    x, y = classes()
    torch.manual_seed(0)
    model = net(8, *[32] * 10, 3, between=lambda width: [nn.Sigmoid()])
    w = fit(model, torch.optim.SGD(model.parameters(), lr=0.1), x, y, updates=60)
    finding = found(w)[Symptom.VANISHING]
    assert finding.layer == "0"
    assert 0 < finding.evidence["strength"] < 1e-3


def test_a_deep_sigmoid_network_vanishes_with_adam_too():
    x, y = classes()
    torch.manual_seed(0)
    model = net(8, *[32] * 12, 3, between=lambda width: [nn.Sigmoid()])
    w = fit(model, torch.optim.Adam(model.parameters(), lr=1e-4), x, y, updates=150)
    assert Symptom.VANISHING in found(w)


def test_a_rate_far_too_low():
    x, y = classes()
    torch.manual_seed(0)
    model = net(8, 16, 3)
    w = fit(model, torch.optim.SGD(model.parameters(), lr=1e-7), x, y, updates=250)
    assert set(found(w)) == {Symptom.STALLED, Cause.LR_TOO_LOW}


def test_updates_that_undo_each_other():
    """Gradient descent on (w² - 1)²/4, whose curvature is 2, with a rate above 2/2."""

    class Square(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([0.5]))

        def forward(self, x):
            return self.weight.square() * x

    model, x = Square(), torch.ones(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.2)
    with opened(model, optimizer) as w:
        for _ in range(300):
            optimizer.zero_grad()
            (mse_loss(model(x), x) / 4).backward()
            optimizer.step()
    assert set(found(w)) == {Symptom.OSCILLATING}
    assert found(w)[Symptom.OSCILLATING].evidence["cosine"] < -0.99


def test_spikes_of_the_loss():
    x, y = classes()
    torch.manual_seed(0)
    model = net(8, 32, 3)

    def throw(t):
        if t in (200, 300, 400):
            with torch.no_grad():
                model[2].weight.mul_(-4)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    w = fit(model, optimizer, x, y, updates=450, each=throw)
    finding = found(w)[Symptom.SPIKING]
    assert finding.evidence["spikes"] >= 3
    assert finding.step == 200
