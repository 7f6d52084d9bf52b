"""What has left its start is told in runs of any length; what is too short is not healthy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

import etude
from etude.diagnosis.finding import Diagnosis, Symptom
from etude.diagnosis.health.finding_plain import diagnosis_of
from etude.diagnosis.history import History
from etude.diagnosis.symptoms.curve import loss_curve
from etude.diagnosis.symptoms.departure import ENOUGH, Departure, departure
from etude.diagnosis.symptoms.losses import diverging

LENGTH = st.integers(ENOUGH, 400)


def history(loss: np.ndarray) -> History:
    return History(len(loss), loss, loss, np.arange(0))


def left(loss: np.ndarray) -> Departure | None:
    curve = loss_curve(history(loss))
    assert curve is not None
    return departure(curve)


def noisy(seed: int, length: int, noise: float) -> np.ndarray:
    return np.exp(noise * np.random.default_rng(seed).standard_normal(length))


@given(st.integers(0, 1000), LENGTH, st.integers(0, 10), st.floats(0, 0.1), st.floats(60, 1e4))
@settings(max_examples=100)
def test_a_loss_that_leaves_its_start_is_told_however_noisy_it_is_then(seed, n, calm, noise, far):
    """The noise after the break, far larger than the start, does not hide it."""
    calm = max(calm, 1)
    loss = noisy(seed, n, noise)
    loss[calm:] = far * np.sort(noisy(seed + 1, n - calm, 0.3))
    (finding,) = diverging(history(loss))
    assert finding.what == Symptom.DIVERGING
    assert finding.step == calm
    assert f"{n - calm} of {n} losses" in finding.text


@given(st.integers(0, 1000), LENGTH, st.floats(0.0, 0.3))
@settings(max_examples=100)
def test_a_run_that_falls_or_stays_is_left_alone(seed, n, noise):
    for slope in (0.0, 1.0):
        assert not diverging(history(noisy(seed, n, noise) * np.exp(-slope * np.arange(n) / n)))


@given(st.integers(0, 1000), LENGTH)
@settings(max_examples=50)
def test_a_peak_that_comes_back_is_left_alone(seed, n):
    loss = noisy(seed, n, 0.05)
    loss[4:] *= 50 * np.exp(-6 * np.arange(n - 4) / n)
    assert left(loss) is None


@given(st.integers(0, 100), LENGTH, st.floats(1e-6, 1e6))
@settings(max_examples=50)
def test_the_unit_of_the_loss_does_not_matter(seed, n, unit):
    loss = np.concatenate([noisy(seed, 6, 0.1), 30 * np.sort(noisy(seed, n - 6, 0.2))])
    one, other = left(loss), left(unit * loss)
    assert one is not None
    assert other is not None
    assert other.above == one.above
    assert other.level == pytest.approx(unit * one.level)


@given(st.integers(0, 1000), st.integers(1, 10), st.floats(0, 0.1), st.floats(60, 1e4))
@settings(max_examples=25)
def test_a_run_that_has_left_its_start_has_left_it_at_every_length(seed, calm, noise, far):
    """No length from which another bound would count."""
    loss = noisy(seed, 200, noise)
    loss[calm:] = far * np.sort(noisy(seed + 1, 200 - calm, 0.3))
    assert all(left(loss[:n]) is not None for n in range(2 * ENOUGH, 201))


def run(lr: float, updates: int) -> Diagnosis:
    torch.manual_seed(0)
    x = torch.randn(128, 8)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    with etude.watch(model, optimizer, on_finding=lambda finding: None) as w:
        for _ in range(updates):
            batch = torch.randint(128, (32,))
            optimizer.zero_grad()
            mse_loss(model(x[batch]), x[batch].sum(1, keepdim=True)).backward()
            optimizer.step()
    return w.report()


def test_healthy_needs_enough_losses():
    short, enough = run(0.02, ENOUGH - 1), run(0.02, ENOUGH)
    assert not short.healthy
    assert str(short) == (
        "cannot tell: The run is too short: 19 losses were read, and 20 are needed to call a run "
        "healthy."
    )
    assert short.verdict is None
    assert not diagnosis_of(short.to_dict()).healthy
    assert str(enough) == "healthy"


@pytest.mark.parametrize("updates", [40, 100, 200])
def test_a_run_at_far_too_high_a_rate_is_not_called_healthy(updates):
    digits = load_digits()
    x, y = torch.tensor(digits.images, dtype=torch.float32) / 16, torch.tensor(digits.target)
    torch.manual_seed(0)
    gru, head = nn.GRU(8, 32, batch_first=True), nn.Linear(32, 10)
    both = nn.ModuleList([gru, head])
    optimizer = torch.optim.SGD(both.parameters(), lr=5.0, momentum=0.9)
    with etude.watch(both, optimizer, on_finding=lambda finding: None) as w:
        for _ in range(updates):
            batch = torch.randint(len(x), (64,))
            optimizer.zero_grad()
            cross_entropy(head(gru(x[batch])[0][:, -1]), y[batch]).backward()
            optimizer.step()
    report = w.report()
    assert np.median(report.history.loss[-20:]) > 10 * report.history.loss[0]
    assert Symptom.DIVERGING in {finding.what for finding in report.findings}
    assert not report.healthy
