"""What a watch reads, against what is computed by hand."""

from __future__ import annotations

import contextlib
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from etude.diagnosis.history import Quantity, RunQuantity
from tests.diagnosis.programs import HEALTHY, classes, fit, net, opened


def test_the_readings_are_those_computed_by_hand():
    x, y = classes(64)
    torch.manual_seed(0)
    model = net(8, 16, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    norms, ratios, losses, moves = [], [], [], []
    with opened(model, optimizer, every=1) as w:
        for _ in range(6):
            optimizer.zero_grad()
            loss = cross_entropy(model(x), y)
            loss.backward()
            before = [p.detach().clone() for p in model.parameters()]
            norms.append([float(p.grad.detach().norm()) for p in model.parameters()])
            optimizer.step()
            move = [p.detach() - b for p, b in zip(model.parameters(), before, strict=True)]
            ratios.append(
                [
                    float(m.norm() / p.detach().norm())
                    for m, p in zip(move, model.parameters(), strict=True)
                ]
            )
            moves.append(torch.cat([m.flatten() for m in move[:2]]))
            losses.append(loss.item())
    history = w.report().history
    assert history.steps.tolist() == list(range(6))
    np.testing.assert_allclose(history.parameter_gradients, norms, rtol=1e-5)
    np.testing.assert_allclose(history.parameter_updates, ratios, rtol=1e-4)
    assert history.loss.tolist() == losses
    assert history.lr.tolist() == [0.1] * 6
    layer = np.sqrt(np.square(norms)[:, :2].sum(1))
    np.testing.assert_allclose(history.of_layers(Quantity.GRADIENT_NORM)[:, 0], layer, rtol=1e-5)
    cosine = [float(torch.cosine_similarity(a, b, 0)) for a, b in pairwise(moves)]
    found = history.of_layers(Quantity.UPDATE_COSINE)[:, 0]
    np.testing.assert_allclose(found[1:], cosine, atol=1e-4)
    assert np.isnan(found[0])


def test_a_large_tensor_is_estimated_within_a_few_percent():
    torch.manual_seed(0)
    model = nn.Linear(700, 300)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with opened(model, optimizer, every=1) as w:
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(16, 700)).square().mean().backward()
            optimizer.step()
            norm = float(model.weight.grad.norm())
    history = w.report().history
    assert history.parameter_gradients[-1, 0] == pytest.approx(norm, rel=0.05)
    assert history.parameter_norms[-1, 0] == pytest.approx(
        float(model.weight.detach().norm()), rel=0.05
    )


def test_activations_are_read_wherever_they_are_called():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 6), nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            hidden = torch.clamp(self.a(x), min=0)
            return torch.sigmoid(self.c(self.b(hidden).tanh()))

    x, _ = classes(64)
    torch.manual_seed(0)
    model = Functional()
    nn.init.constant_(model.a.bias[:3].detach(), -100.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with opened(model, optimizer, every=1) as w:
        for _ in range(6):
            optimizer.zero_grad()
            model(x).mean().backward()
            optimizer.step()
    history = w.report().history
    assert [layer.name for layer in history.layers] == ["a", "b", "c"]
    assert [layer.activation for layer in history.layers] == ["relu", "tanh", "sigmoid"]
    assert [layer.output for layer in history.layers] == [False, False, True]
    assert history.of_layers(Quantity.DEAD)[-1, 0] == 0.5
    assert np.isnan(history.of_layers(Quantity.SATURATED)[-1, 2])  # an output may saturate
    with torch.no_grad():
        hidden = model.b(torch.clamp(model.a(x), min=0))
    share = float((1 - hidden.tanh().square() < 0.05).float().mean())
    assert history.of_layers(Quantity.SATURATED)[-1, 1] == pytest.approx(share, abs=1e-6)
    variance = history.of_layers(Quantity.ACTIVATION_VARIANCE)[-1, 1]
    assert variance == pytest.approx(float(hidden.var()), rel=1e-5)


def test_clipped_updates_are_counted():
    x, y = classes(64)
    torch.manual_seed(0)
    model = net(8, 16, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with opened(model, optimizer, every=1) as w:
        for t in range(6):
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.01 if t % 2 else 1e3)
            optimizer.step()
    assert w.report().history.of_run(RunQuantity.CLIPPED).tolist() == [0, 1] * 3


@pytest.mark.parametrize("fused", [False, True])
def test_a_scaled_loss_is_read_without_its_scale(fused):
    x, y = classes(64)
    readings = []
    for scale in (1.0, 2.0**14):
        torch.manual_seed(0)
        model = net(8, 16, 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        with opened(model, optimizer, every=1) as w:
            for _ in range(4):
                optimizer.zero_grad()
                scaler.scale(cross_entropy(model(x), y)).backward()
                scaler.step(optimizer)
                scaler.update()
        readings.append(w.report().history)
    np.testing.assert_allclose(readings[0].loss, readings[1].loss, rtol=1e-5)
    np.testing.assert_allclose(
        readings[0].parameter_gradients, readings[1].parameter_gradients, rtol=1e-4
    )


def test_the_mean_loss_of_accumulated_batches_is_one_update():
    x, y = classes(64)
    model = net(8, 16, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    with opened(model, optimizer) as w:
        for t in range(8):
            loss = cross_entropy(model(x), y) * (t + 1)
            loss.backward()
            losses.append(loss.item())
            if t % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()
    expected = [np.mean(losses[:4]), np.mean(losses[4:])]
    np.testing.assert_allclose(w.report().history.loss, expected, rtol=1e-6)


def test_a_loss_may_be_stated():
    model = net(8, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = classes(64)
    with opened(model, optimizer) as w:
        for t in range(4):
            loss = cross_entropy(model(x), y)
            for p, g in zip(
                model.parameters(), torch.autograd.grad(loss, [*model.parameters()]), strict=True
            ):
                p.grad = g
            w.log(loss=torch.tensor(float(t)))
            optimizer.step()
    assert w.report().history.loss.tolist() == [0.0, 1.0, 2.0, 3.0]


def test_two_networks_in_a_game_have_two_losses_and_one_count():
    report = HEALTHY["gan"](every=5).report()
    assert report.history.updates == 150
    assert not report.history.one_loss
    assert {layer.name.split(".")[0] for layer in report.history.layers} == {"generator", "judge"}
    own = report.history.of_layers(Quantity.GRADIENT_NORM)
    assert np.all(np.isfinite(own))


def test_every_states_the_sampled_updates_and_without_it_few_are_sampled():
    x, y = classes()
    for every, expected in ((1, 40), (7, 6)):
        model = net(8, 16, 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        w = fit(model, optimizer, x, y, updates=40, every=every)
        assert w.report().history.samples == expected
        assert w.report().history.period == every
        assert f"{expected} of 40 updates, lately one in {every}" in w.report().seen


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile], ids=["parallel", "compiled"])
def test_names_come_without_those_of_wrappers(wrap):
    x, y = classes(64)
    model = net(8, 16, 3)
    wrapped = wrap(model, backend="eager") if wrap is torch.compile else wrap(model)
    w = fit(wrapped, torch.optim.SGD(model.parameters(), lr=0.1), x, y, updates=20)
    report = w.report()
    assert [layer.name for layer in report.history.layers] == ["0", "2"]
    assert report.healthy
    if wrap is torch.compile:
        assert report.unseen == ("Activations cannot be read, since the model is compiled.",)


@pytest.mark.parametrize("closure", [False, True])
def test_a_step_that_calls_the_step_of_its_class_is_one_update(closure):
    """Torch calls the hooks in both, once an instance of each class was made."""

    class Mine(torch.optim.LBFGS if closure else torch.optim.SGD):
        def step(self, closure=None):
            return super().step(closure)

    x, y = classes(64)
    model = net(8, 16, 3)
    Mine.__mro__[1](model.parameters(), lr=0.1)
    optimizer = Mine(model.parameters(), lr=0.1)

    def loss():
        optimizer.zero_grad()
        found = cross_entropy(model(x), y)
        found.backward()
        return found

    with opened(model, optimizer, every=1) as w:
        for _ in range(6):
            if closure:
                optimizer.step(loss)
            else:
                loss()
                optimizer.step()
    assert w.report().history.updates == 6
    assert w.report().history.steps.tolist() == list(range(6))


def test_updates_are_counted_on_after_a_step_that_failed():
    class Failing(torch.optim.SGD):
        fails = False

        def step(self, closure=None):
            if self.fails:
                raise OSError("in the step")
            return super().step(closure)

    x, y = classes(64)
    model = net(8, 16, 3)
    optimizer = Failing(model.parameters(), lr=0.1)
    with opened(model, optimizer, every=1) as w:
        for t in range(8):
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.fails = t == 3
            with contextlib.suppress(OSError):
                optimizer.step()
    assert w.report().history.updates == 8
