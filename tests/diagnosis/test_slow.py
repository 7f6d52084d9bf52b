"""The symptom `slow`: steady progress at a small part of the possible speed, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

import etude
from etude import Recipe, Task
from etude.diagnosis.finding import Cause, Symptom
from etude.diagnosis.history import History, LayerInfo, Quantity, RunQuantity
from etude.diagnosis.symptoms.constant_loss import no_better_than_constant
from etude.diagnosis.symptoms.progress import FEWEST, moved, slow
from tests.diagnosis.programs import classes, fit, net
from tests.helpers import mlp


def history(loss, lr=None, ratio=1e-4, over=None) -> History:
    """A run of one layer, read at every tenth update."""
    steps = np.arange(0, len(loss), 10)
    run = {} if over is None else {RunQuantity.RATE_OVER_CRITICAL: np.full(len(steps), over)}
    return History(
        len(loss), np.asarray(loss, float), np.full(len(loss), 0.1) if lr is None else lr, steps,
        layers=(LayerInfo("0"),), readings={Quantity.UPDATE_RATIO: np.full((len(steps), 1), ratio)},
        run_readings=run,
    )  # fmt: skip


def noise(count: int, size: float = 0.01):
    return size * np.random.default_rng(0).normal(size=count)


def ended(loss) -> History:
    """A run that is over, whose targets have mean 0 and variance 1."""
    run = history(loss)
    each = np.ones(run.samples)
    readings = {
        RunQuantity.TARGET_WITHIN: each, RunQuantity.TARGET_COUNT: 64 * each,
        RunQuantity.PLAIN_LOSS: run.loss[run.steps],
    }  # fmt: skip
    return replace(
        run, ended=True, loss_name="mse_loss", target_means=0 * each[:, None], run_readings=readings
    )


STEADY = np.linspace(2.0, 1.8, 300) + noise(300)


@given(st.floats(1e-3, 1e3), st.floats(1e-8, 10.0), st.integers(FEWEST, 300))
@settings(max_examples=30)
def test_steady_progress_is_slow_in_every_unit_of_loss_and_rate(scale, lr, count):
    run = history(scale * STEADY[:count], np.full(count, lr))
    (found,) = slow(run)
    assert found.what == Symptom.SLOW
    assert found.evidence["moved"] == pytest.approx(1e-4 * count) == moved(run)
    assert 0 < found.evidence["fall"] < 0.3


def test_a_schedule_that_ends_low_is_no_slowing_down():
    lr = 0.05 * (1 + np.cos(np.pi * np.arange(400) / 400))
    way = np.cumsum(lr) / lr.sum()
    assert slow(history(2.0 - 0.2 * way + noise(400), lr))
    assert not slow(history(2.0 - 0.2 * np.minimum(1, 3 * way) + noise(400), lr))


def test_what_learns_fast_at_first_moves_far_or_warms_up_is_not_slow():
    flattens = 2.0 - 0.2 * (1 - np.exp(-np.arange(300) / 40)) + noise(300)
    assert not slow(history(flattens))
    assert not slow(history(STEADY, ratio=1e-3))
    assert not slow(history(STEADY, lr=np.linspace(0.01, 0.1, 300)))
    assert not slow(history(np.linspace(2.0, 1.0, 300) + noise(300)))
    assert not slow(history(STEADY[: FEWEST - 1]))
    assert not slow(history(np.full(300, 2.0) + noise(300)))
    assert not slow(history(STEADY[::-1]))
    assert not slow(replace(history(STEADY), one_loss=False))


def test_curvature_decides_where_the_loss_does_not_fall_beyond_its_noise():
    still = np.full(300, 2.0) + noise(300)
    assert not slow(history(still, over=0.05))
    assert not slow(history(still, over=1e-3, ratio=5e-4))
    (found,) = slow(history(still, over=1e-3))
    assert found.evidence["rate_over_critical"] == pytest.approx(1e-3)
    assert "1e+03 times as long" in found.text
    assert not slow(history(STEADY, over=0.5))  # the next step would raise the loss


@pytest.mark.parametrize("seed", range(3))
def test_a_loop_at_a_thousandth_of_its_rate_is_slow_and_not_stalled(seed):
    x, y = classes()
    torch.manual_seed(seed)
    model = net(8, 32, 32, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    report = fit(model, optimizer, x, y, batch=256, updates=250).report()
    assert [finding.what for finding in report.findings] == [Cause.LR_TOO_LOW, Symptom.SLOW]


@given(st.integers(0, 99), st.floats(0.04, 0.2))
@settings(max_examples=30)
def test_a_loss_above_a_constants_that_goes_on_falling_is_not_stalled(seed, fall):
    noise = 0.01 * np.random.default_rng(seed).normal(size=300)
    assert not no_better_than_constant(ended(np.linspace(2.0, 2.0 - fall, 300) + noise))
    assert no_better_than_constant(ended(2.0 + noise))


def test_diagnose_says_that_steps_could_have_been_longer():
    task = Task(lambda: mlp(8, 16, 3), classes(256), loss=cross_entropy, name="slow")
    recipe = Recipe(optimizer="sgd", lr=1e-5, schedule="constant()", steps=130, batch_size=16)
    found = etude.diagnose(task, recipe, progress=False)
    (slowness,) = [f for f in found.findings if f.what == Symptom.SLOW]
    assert slowness.evidence["rate_over_critical"] < 1e-2
    assert "times as long" in slowness.text
