"""Recipes at other batch sizes, and the gradient noise scale."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset

from etude import Recipe, Task, train
from etude.errors import BadTypeError, BadValueError
from etude.measure.noise_scale import NoiseScaleObserver
from etude.measure.noise_scale import noise_scale as measure
from etude.training.run import Run
from etude.tuning.transfer.scaling import RULES, linear, noise_scale, square_root

BASE = Recipe(optimizer="sgd", lr=0.1, batch_size=64, steps=1000)
sizes = st.integers(1, 4096)


@given(sizes)
def test_the_rules_are_their_formulas(size):
    ratio = size / 64
    assert linear(BASE, size).lr == pytest.approx(0.1 * ratio)
    assert square_root(BASE, size).lr == pytest.approx(0.1 * math.sqrt(ratio))
    want = 0.1 * (1 + 500 / 64) / (1 + 500 / size)
    assert noise_scale(BASE, size, 500).lr == pytest.approx(want)
    assert noise_scale(BASE, size, 500, exponent=0.5).lr == pytest.approx(math.sqrt(0.1 * want))


@given(sizes)
def test_the_noise_rule_lies_between_constant_and_linear(size):
    assert noise_scale(BASE, size, 1e12).lr == pytest.approx(linear(BASE, size).lr, rel=1e-6)
    assert noise_scale(BASE, size, 1e-9).lr == pytest.approx(0.1)


@pytest.mark.parametrize("name", RULES)
@given(sizes, sizes)
def test_there_and_back_and_by_way_of_another_size(name, one, other):
    def go(recipe: Recipe, size: int) -> Recipe:
        return RULES[name](recipe, size, **({"noise": 300} if name == "noise_scale" else {}))

    epochs = BASE.replace(steps="7 epochs")
    assert go(go(epochs, one), 64).lr == pytest.approx(0.1)
    assert go(go(epochs, one), other).lr == pytest.approx(go(epochs, other).lr)
    assert go(epochs, 64) == epochs


def test_the_number_of_samples_stays():
    scaled = linear(BASE, 256)
    assert scaled.steps == 250
    assert scaled.steps * scaled.batch_size == BASE.steps * BASE.batch_size
    assert scaled.schedule == BASE.schedule
    assert linear(BASE.replace(steps="20 epochs"), 256).steps == "20 epochs"


def test_durations_in_updates_are_stretched():
    recipe = BASE.replace(
        schedule="warmup(100) >> cosine(900)", schedules={"momentum": "0.9 * step(500, 0.5)"}
    )
    scaled = linear(recipe, 256)
    before, after = recipe.schedule.over(1000), scaled.schedule.over(250)
    for t in (10, 25, 100, 200):
        assert after(t) == pytest.approx(before(4 * t), abs=0.02)
    assert scaled.schedules["momentum"].over(250)(130) == pytest.approx(0.45)
    share = BASE.replace(schedule="warmup('10%') >> cosine()")
    assert linear(share, 128).schedule == share.schedule


def test_the_moments_reach_over_as_many_samples():
    recipe = Recipe(optimizer="adamw", lr=1e-3, batch_size=64, steps="3 epochs")
    scaled = square_root(recipe, 256, moments=True)
    assert scaled.optimizer.value("betas") == pytest.approx((0.6, 0.996))
    assert scaled.optimizer.value("eps") == pytest.approx(5e-9)
    assert scaled.lr == pytest.approx(2e-3)
    assert square_root(scaled, 64, moments=True).optimizer.value("betas") == pytest.approx(
        (0.9, 0.999)
    )
    with pytest.raises(BadValueError, match=r"at 16 times the batch the betas would be -0\.6"):
        square_root(recipe, 1024, moments=True)
    with pytest.raises(BadValueError, match="moments=True: sgd has no betas"):
        square_root(BASE, 128, moments=True)


def test_what_cannot_be_scaled_is_refused():
    with pytest.raises(
        BadValueError, match=r"batch_size is None, .*recipe.replace\(batch_size=64\)"
    ):
        linear(Recipe(), 128)
    with pytest.raises(BadValueError, match="batch_size is 'all'"):
        linear(Recipe(batch_size="all"), 128)
    with pytest.raises(BadValueError, match="batch_size=0 is out of bounds"):
        linear(BASE, 0)
    with pytest.raises(BadTypeError, match=r"batch_size=True is not a whole number"):
        linear(BASE, True)
    for noise in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(BadValueError, match=r"noise=.* is out of bounds"):
            noise_scale(BASE, 128, noise)
    with pytest.raises(BadValueError, match=r"exponent=2 is out of bounds"):
        noise_scale(BASE, 128, 10.0, exponent=2)


# ---- the noise scale ---------------------------------------------------------------------


class Point(nn.Module):
    """A point; its squared distance to samples has the gradient (w - x), whose noise is known."""

    def __init__(self, start: torch.Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(start.clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.w.expand_as(x)


def known(distance: float, spread: float, size: int = 20) -> tuple[Task, float]:
    """A task, and its noise scale tr Σ / |G|² computed from all samples."""
    x = spread * torch.randn(4000, size, generator=torch.Generator().manual_seed(0))
    start = torch.full((size,), distance / math.sqrt(size))

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return 0.5 * (output - target).square().sum(1).mean()

    task = Task(lambda: Point(start), (x, x), valid=(x, x), loss=loss)
    gradient = start - x.mean(0)
    return task, float(x.var(0, correction=0).sum() / gradient.square().sum())


@pytest.mark.parametrize(("distance", "spread"), [(2.0, 1.0), (0.5, 1.0), (3.0, 0.3)])
def test_it_is_what_it_is_known_to_be(distance, spread):
    task, want = known(distance, spread)
    run = Run(task, Recipe(batch_size=64))
    found = measure(run, small=8, parts=16, draws=40)
    assert found.samples == pytest.approx(want, rel=0.15, abs=0.05)
    assert abs(found.samples - want) < 4 * found.error
    assert found.noise == pytest.approx(20 * spread**2, rel=0.1)
    assert found.signal == pytest.approx(distance**2, rel=0.2)
    assert found.cost == 8 * 16 * 40


def test_it_grows_as_training_settles():
    x = torch.randn(512, 8, generator=torch.Generator().manual_seed(0))
    y = x.sum(1, keepdim=True) + torch.randn(512, 1, generator=torch.Generator().manual_seed(1))
    task = Task(lambda: nn.Linear(8, 1), (x, y), loss=mse_loss)
    recipe = Recipe(optimizer="sgd", lr=0.1, steps=60, batch_size=32)
    record = train(task, recipe, evaluations=1, observers=[NoiseScaleObserver(every=20)])
    noise = record.series["noise_scale"]
    assert noise[0] < 20
    assert noise[40] > 5 * noise[0]
    assert np.isfinite(noise).nonzero()[0].tolist() == [0, 20, 40]


def test_measuring_leaves_no_trace():
    x = torch.randn(128, 6, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()

    def model() -> nn.Module:
        return nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2)
        )

    task = Task(model, (x, y), loss=cross_entropy)
    recipe = Recipe(optimizer="adamw", steps=12, batch_size=16)
    plain, probed = (
        train(task, recipe, evaluations=2, observers=o) for o in ((), [NoiseScaleObserver(3)])
    )
    for a, b in zip(
        plain.model.state_dict().values(), probed.model.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b)
    assert plain.evaluations == probed.evaluations
    run = Run(task, recipe)
    before = torch.get_rng_state()
    assert measure(run) == measure(run)
    assert measure(run, seed=1) != measure(run)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(m.training for m in run.model.modules())


def test_loaders_and_sparse_tables_are_measured_too():
    x = torch.randint(0, 20, (64, 3), generator=torch.Generator().manual_seed(0))
    y = x.float().mean(1, keepdim=True)
    loader = DataLoader(TensorDataset(x, y), batch_size=8)

    def model() -> nn.Module:
        return nn.Sequential(nn.Embedding(20, 2, sparse=True), nn.Flatten(), nn.Linear(6, 1))

    task = Task(model, loader, valid=(x, y), loss=mse_loss)
    found = measure(Run(task, Recipe(optimizer="sparse_adam")), small=8, parts=4)
    assert 0 < found.samples < math.inf


def test_sizes_that_tell_nothing_are_refused():
    task, _ = known(1.0, 1.0)
    run = Run(task, Recipe(batch_size=64))
    for wrong in ({"small": 0}, {"parts": 1}, {"draws": 1}):
        name, value = next(iter(wrong.items()))
        with pytest.raises(BadValueError, match=f"{name}={value} is out of bounds"):
            measure(run, **wrong)
    with pytest.raises(BadValueError, match="every=0 of the observer 'noise_scale': give"):
        Run(task, Recipe(batch_size=64), observers=[NoiseScaleObserver(0)])
