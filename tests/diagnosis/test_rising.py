"""The warning of a divergence: before it happens, once, and relative to the run."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import mse_loss

import etude
from etude.diagnosis.finding import Finding, Symptom
from etude.diagnosis.history import History
from etude.diagnosis.symptoms.losses import diverging
from etude.diagnosis.symptoms.rising import BLOCK, LossLevels, coming_divergence


def update_of(losses: list[float]) -> int | None:
    levels = LossLevels()
    levels.follow(losses)
    return None if levels.rise is None else levels.rise.update


def falling(seed: int, noise: float, updates: int = 200) -> list[float]:
    rng = np.random.default_rng(seed)
    t = np.arange(updates)
    return list((0.2 + np.exp(-t / 30)) * np.exp(noise * rng.standard_normal(updates)))


def rising(losses: list[float], growth: float, updates: int = 100) -> list[float]:
    return losses + [losses[-1] + 0.01 * growth**t for t in range(updates)]


def history(losses: list[float]) -> History:
    loss = np.array(losses)
    return History(len(loss), loss, loss, np.arange(0))


@given(st.integers(0, 1000), st.floats(0.01, 0.15), st.floats(1.06, 1.3))
@settings(max_examples=50)
def test_a_rise_is_told_while_it_goes_on_and_not_before(seed, noise, growth):
    losses = rising(falling(seed, noise), growth, updates=150)
    update = update_of(losses)
    assert update is not None
    assert update >= 200
    start = float(np.median(losses[:10]))
    passed = 200 + next(t for t, loss in enumerate(losses[200:]) if loss > 5 * start)
    assert update < passed


@given(st.integers(0, 1000), st.floats(0.0, 0.3))
@settings(max_examples=100)
def test_a_noisy_run_that_falls_gets_no_warning(seed, noise):
    assert update_of(falling(seed, noise, updates=400)) is None


@given(st.integers(0, 100), st.floats(1e-6, 1e6))
@settings(max_examples=50)
def test_the_unit_of_the_loss_does_not_matter(seed, unit):
    losses = rising(falling(seed, 0.1), 1.1)
    assert update_of([unit * loss for loss in losses]) == update_of(losses)


@given(st.integers(0, 100), st.lists(st.integers(1, 40), min_size=1, max_size=20))
@settings(max_examples=50)
def test_what_is_told_does_not_depend_on_what_comes_later_nor_on_when_it_is_asked(seed, pieces):
    losses = rising(falling(seed, 0.1), 1.1)
    update = update_of(losses)
    assert update is not None
    assert update_of(losses[: update + 1]) == update
    assert update_of(losses[:update]) is None
    levels, read = LossLevels(), 0
    for piece in [*pieces, len(losses)]:
        read = min(len(losses), read + piece)
        levels.follow(losses[:read])
    assert levels.rise is not None
    assert levels.rise.update == update


def test_one_spike_is_no_rise_and_a_loss_that_is_not_finite_does_not_count():
    losses = falling(0, 0.05)
    for bad in (50.0, math.nan, math.inf):
        spiked = list(losses)
        spiked[150] = bad
        assert update_of(spiked) is None
    assert update_of([math.nan] * 200) is None


def test_little_history_says_nothing():
    assert update_of([1.0] * 20 + [1e6] * 9) is None


def test_the_finding_states_the_levels_and_gives_way_to_the_divergence_itself():
    losses = rising(falling(0, 0.05), 1.1, updates=60)
    (finding,) = coming_divergence(history(losses))
    assert finding.what == Symptom.DIVERGING
    assert finding.step == update_of(losses)
    assert (finding.step + 1) % BLOCK == 0
    assert finding.evidence["level"] > finding.evidence["usual"] >= finding.evidence["lowest"]
    assert f"{finding.evidence['level']:.4g}" in finding.text
    broken = losses + [math.inf] * 3
    gone = History(len(broken), np.array(broken), np.array(broken), np.arange(0), broken_from=260)
    assert diverging(gone)
    assert not coming_divergence(gone)


def test_a_watch_warns_once_well_before_the_loss_breaks():
    """The rate of SGD grows by 2% an update, over the edge of stability and on."""
    torch.manual_seed(0)
    x = torch.randn(256, 8)
    y = x @ torch.randn(8, 1) + 0.1 * torch.randn(256, 1)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.005)
    told: list[tuple[int, Finding]] = []
    losses: list[float] = []
    with etude.watch(
        model, optimizer, on_finding=lambda finding: told.append((len(losses), finding))
    ):
        for _ in range(600):
            batch = torch.randint(256, (32,))
            optimizer.zero_grad()
            loss = mse_loss(model(x[batch]), y[batch])
            losses.append(loss.item())
            loss.backward()
            optimizer.step()
            optimizer.param_groups[0]["lr"] *= 1.02
            if not math.isfinite(losses[-1]) or losses[-1] > 1e6:
                break
    start = float(np.median(losses[:10]))
    warnings = [(at, one) for at, one in told if "warning" in one.evidence]
    assert len(warnings) == 1
    at, finding = warnings[0]
    assert finding.step is not None
    assert at - finding.step <= 2 * BLOCK
    last_below = max(t for t, loss in enumerate(losses) if loss < start)
    assert finding.step <= last_below + 1 - 10


@pytest.mark.parametrize("rate", [0.02, 0.1])
def test_a_healthy_loop_gets_no_warning(rate):
    torch.manual_seed(0)
    x = torch.randn(256, 8)
    y = x.sum(1, keepdim=True)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    with etude.watch(model, optimizer, on_finding=lambda finding: None) as w:
        for _ in range(200):
            batch = torch.randint(256, (16,))
            optimizer.zero_grad()
            mse_loss(model(x[batch]), y[batch]).backward()
            optimizer.step()
    assert not [one for one in w.report().findings if one.what == Symptom.DIVERGING]
