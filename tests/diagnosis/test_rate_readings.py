"""Curvature and gradient noise, read from a loop: right, and without a trace."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

import etude
from etude import Recipe, Task
from etude.diagnosis.history import RunQuantity
from etude.diagnosis.watching.curvature import APART, is_due
from etude.diagnosis.watching.noise import noise_over_batch
from etude.errors import BadTypeError, BadValueError
from tests.diagnosis.programs import HEALTHY, classes, net, opened
from tests.helpers import mlp
from tests.measure.common import bowl, flat


def noisy() -> nn.Module:
    return nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(inplace=True), nn.Dropout(0.3),
        nn.Linear(16, 3),
    )  # fmt: skip


def trained(kind, *, curvature=False, every=None, updates=40):
    """Train; return the watch, and all that the run leaves."""
    x, y = classes(128)
    torch.manual_seed(0)
    model = noisy()
    optimizer = kind(model.parameters())
    chosen = torch.arange(16)

    def loss():
        return cross_entropy(model(x[chosen]), y[chosen])

    with opened(model, optimizer, every=every, **({"loss": loss} if curvature else {})) as w:
        for _ in range(updates):
            chosen = torch.randint(0, 128, (16,))

            def closure():
                optimizer.zero_grad()
                found = loss()
                found.backward()
                return found

            if kind is lbfgs:
                optimizer.step(closure)
            else:
                closure()
                optimizer.step()
    left = [*model.state_dict().values(), *(p.grad for p in model.parameters()), torch.rand(3)]
    for state in optimizer.state_dict()["state"].values():
        left += [v for v in state.values() if isinstance(v, torch.Tensor)]
    return w, left


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.01)


def lbfgs(parameters):
    return torch.optim.LBFGS(parameters, lr=0.1, max_iter=2)


@pytest.mark.parametrize("kind", [sgd, adam, lbfgs])
@pytest.mark.parametrize("every", [None, 3])
def test_a_run_whose_curvature_is_measured_has_the_bits_of_an_unwatched_one(kind, every):
    _, plain = trained(kind)
    w, watched = trained(kind, curvature=True, every=every)
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    history = w.report().history
    read = history.steps[~np.isnan(history.of_run(RunQuantity.RATE_OVER_CRITICAL))].tolist()
    assert read == ([0, 1, 2, 4, 8, 16, 32] if every is None else [0, 3, 6, 9, 18, 33])
    assert "curvature" in w.report().seen
    assert history.updates == 40


@given(st.integers(0, 5_000), st.integers(1, 600))
@settings(max_examples=60)
def test_every_mark_has_its_first_sampled_update(until, every):
    marks = [t for t in range(until + 1) if is_due(t)]
    expected = {-(-mark // every) * every for mark in marks}
    found = {t for t in range(0, until + every, every) if is_due(t, every)}
    assert {t for t in expected if t <= until} == {t for t in found if t <= until}
    assert len(marks) <= 10 + until // APART


def test_the_readings_are_those_of_the_quadratic():
    """Gradient descent on λ w²/2 has η_c = 2/λ at every update."""
    model = nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss():
        return 2 * model.weight.square().sum()

    with opened(model, optimizer, loss=loss) as w:
        for _ in range(9):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
    history = w.report().history
    known = np.isin(history.steps, [0, 1, 2, 4, 8])
    sharpness = history.of_run(RunQuantity.CRITICAL_SHARPNESS)
    np.testing.assert_allclose(sharpness[known], 4.0, rtol=1e-3)
    assert np.all(np.isnan(sharpness[~known]))
    over = history.of_run(RunQuantity.RATE_OVER_CRITICAL)
    np.testing.assert_allclose(over[known], 0.1 * 4 / 2, rtol=1e-3)


@pytest.mark.parametrize(
    ("optimizer", "lr"),
    [("sgd", 0.05), ({"name": "sgd", "momentum": 0.5}, 0.02), ("adamw", 0.01), ("lion", 0.01)],
)
def test_diagnose_measures_the_loss_of_its_own_batches(optimizer, lr):
    found = etude.diagnose(bowl(1.0, 5.0), flat(optimizer, lr, steps=20), progress=False)
    assert found.history is not None
    over = found.history.of_run(RunQuantity.RATE_OVER_CRITICAL)
    over = over[~np.isnan(over)]
    assert len(over) == 6
    assert np.all(over > 0)
    if optimizer == "sgd":  # the gradient turns towards the axis that is slow to learn
        assert over[0] <= lr * 5 / 2
        assert lr * 1 / 2 <= over[-1] < over[0]


@pytest.mark.parametrize("recipe", [
    {"accumulate": 3}, {"l2": 0.01, "l1": 0.001}, {"activity": 0.01}, {"label_smoothing": 0.1},
    {"optimizer": "schedulefree_adamw"}, {"precision": "bfloat16"},
])  # fmt: skip
def test_a_diagnosed_run_has_the_bits_of_train(recipe):
    x, y = classes(128)
    task = Task(lambda: mlp(8, 16, 3), (x, y), loss=cross_entropy)
    given_ = Recipe(**{"lr": 0.01, "steps": 12, "batch_size": 8, **recipe})
    found = etude.diagnose(task, given_, progress=False)
    plain = etude.train(task, given_)
    assert found.record is not None
    pairs = zip(found.record.model.parameters(), plain.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not [text for text in found.unseen if "urvature" in text]
    assert np.isfinite(found.history.of_run(RunQuantity.RATE_OVER_CRITICAL)).sum() >= 4


def test_a_loss_that_fails_stops_nothing_but_the_curvature():
    x, y = classes(64)
    model = net(8, 8, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    counted = []

    def loss():
        counted.append(1)
        found = cross_entropy(model(x), y)
        found.backward()
        return found

    with opened(model, optimizer, loss=loss) as w:
        for _ in range(9):
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()
    report = w.report()
    assert len(counted) == 1
    assert report.history.updates == 9
    assert any("without calling backward" in text for text in report.unseen)
    assert np.all(np.isnan(report.history.of_run(RunQuantity.RATE_OVER_CRITICAL)))


def test_other_losses_are_refused():
    model = nn.Linear(1, 1)
    one, two = (torch.optim.SGD(model.parameters(), lr=0.1) for _ in range(2))
    with pytest.raises(BadTypeError, match=r"loss is 0\.5: give a function"):
        etude.watch(model, one, loss=0.5)
    with pytest.raises(BadValueError, match="loss is given with 2 optimizers"):
        etude.watch(model, [one, two], loss=lambda: 0.0)


# ---- noise ---------------------------------------------------------------------------------------


@given(st.floats(0.05, 5.0), st.integers(2, 16))
@settings(max_examples=40)
def test_both_estimates_find_the_noise_that_gradients_were_drawn_with(noise, passes):
    """Gradients of a large space: the squares are their expectations, up to a few percent."""
    rng = np.random.default_rng(0)
    size = 4_000
    signal = rng.normal(size=size) / math.sqrt(size)
    micro = signal + rng.normal(size=(5, passes, size)) * math.sqrt(noise * passes / size)
    whole = micro.mean(1)
    cosines = np.full(5, np.nan)
    for t in range(1, 5):
        norms = np.linalg.norm(whole[t]) * np.linalg.norm(whole[t - 1])
        cosines[t] = whole[t] @ whole[t - 1] / norms
    none = np.full((5, 2), np.nan)
    parts = np.array([(passes, (m[0] @ m[0]) / (w @ w)) for m, w in zip(micro, whole, strict=True)])
    assert noise_over_batch(cosines, none)[-1] == pytest.approx(noise, rel=0.3)
    assert noise_over_batch(np.full(5, np.nan), parts)[-1] == pytest.approx(noise, rel=0.5)
    both = noise_over_batch(cosines, parts)[-1]
    assert both <= noise_over_batch(cosines, none)[-1]


@pytest.mark.parametrize("divisor", [1, 4])
def test_accumulation_shows_the_noise_without_pairs_of_updates(divisor):
    """Whether the losses are divided by their number makes no difference."""
    torch.manual_seed(0)
    model = nn.Linear(32, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    parts = []
    with opened(model, optimizer, every=2) as w:
        for _ in range(24):
            optimizer.zero_grad()
            squares = []
            for _ in range(4):
                (mse_loss(model(torch.randn(16, 32)), torch.randn(16, 1)) / divisor).backward()
                squares.append(sum(float(p.grad.square().sum()) for p in model.parameters()))
            parts.append((4, 16 * squares[0] / squares[-1]))
            optimizer.step()
    expected = noise_over_batch(np.full(12, np.nan), np.array(parts[::2]))
    noise = w.report().history.of_run(RunQuantity.NOISE_OVER_BATCH)
    np.testing.assert_allclose(noise, expected, rtol=1e-3)
    assert np.isnan(noise).sum() == 2


def test_healthy_loops_have_a_noise_and_gradients_that_stay_have_none():
    history = HEALTHY["mlp_sgd"](every=1).report().history
    noise = history.of_run(RunQuantity.NOISE_OVER_BATCH)
    assert np.isfinite(noise).mean() > 0.5
    x, y = classes(64)
    model = net(8, 8, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    with opened(model, optimizer, every=1) as w:
        for _ in range(10):
            cross_entropy(model(x), y).backward()
            optimizer.step()
    assert np.all(np.isnan(w.report().history.of_run(RunQuantity.NOISE_OVER_BATCH)[2:]))
