"""The rate for another number of processes: its rules as laws, its trial, its limit."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import mse_loss

from etude import Recipe, Task
from etude.distributed.large_batch import LargeBatch
from etude.distributed.world_rate import MISS, WorldRate, rate_for_world, scaled
from etude.errors import BadTypeError, BadValueError, TaskError
from etude.report import present
from etude.tuning.transfer.scaling import noise_scale as by_noise

SGD = Recipe(optimizer={"name": "sgd", "momentum": 0.9}, lr=0.02, batch_size=8, steps=400)
ADAM = Recipe(optimizer="adamw", lr=1e-3, batch_size=8, steps=400)
EPOCHS = "7 epochs"
ratios = st.integers(1, 64)


def noisy_line() -> Task:
    x = torch.linspace(-1, 1, 1024)[:, None]
    noise = 0.1 * torch.randn(1024, 1, generator=torch.Generator().manual_seed(0))
    return Task(lambda: nn.Linear(1, 1), (x, 3 * x + noise), loss=mse_loss)


# ---- the rules -----------------------------------------------------------------------------


@given(ratios)
def test_linear_and_square_root_are_their_formulas(ratio):
    assert scaled(SGD.replace(steps=EPOCHS), 8 * ratio, "linear").lr == pytest.approx(0.02 * ratio)
    assert scaled(ADAM.replace(steps=EPOCHS), 8 * ratio, "square root").lr == pytest.approx(
        1e-3 * math.sqrt(ratio)
    )


@given(st.floats(0.001, 0.9999), ratios)
def test_the_half_life_of_the_betas_stays_in_samples(beta, ratio):
    """At any ratio: 1 - κ (1 - β), its first order, would fall below 0."""
    recipe = ADAM.replace(steps=EPOCHS, optimizer={"name": "adamw", "betas": (beta, beta)})
    moved = scaled(recipe, 8 * ratio, "square root").optimizer.value("betas")[0]
    assert 0 <= moved < 1
    if moved > 1e-12:
        before, after = (
            8 * math.log(0.5) / math.log(beta),
            8 * ratio * math.log(0.5) / math.log(moved),
        )
        assert after == pytest.approx(before)


@given(ratios, ratios)
def test_by_way_of_another_size_it_is_the_same(one, other):
    epochs = ADAM.replace(steps=EPOCHS)
    straight = scaled(epochs, 8 * one * other, "square root")
    stepwise = scaled(scaled(epochs, 8 * one, "square root"), 8 * one * other, "square root")
    assert stepwise.lr == pytest.approx(straight.lr)
    assert stepwise.optimizer.value("betas") == pytest.approx(straight.optimizer.value("betas"))
    assert stepwise.optimizer.value("eps") == pytest.approx(straight.optimizer.value("eps"))


def test_the_linear_rule_warms_up_where_the_schedule_does_not():
    def schedule(text, size):
        return repr(scaled(SGD.replace(schedule=text), size, "linear").schedule)

    assert schedule("cosine()", 32) == "warmup('5%') >> cosine()"
    assert schedule("constant()", 32) == "warmup('5%') >> constant()"
    assert schedule("warmup('10%') >> cosine()", 32) == "warmup('10%') >> cosine()"
    assert schedule("cosine()", 8) == schedule("cosine()", 4) == "cosine()"  # none is needed


# ---- the limit -----------------------------------------------------------------------------

sizes = st.integers(1, 10**5)
noises = st.floats(1e-3, 1e7)


@given(sizes, ratios, noises)
def test_a_larger_batch_saves_less_than_its_size_and_half_of_it_at_the_limit(before, ratio, noise):
    found = LargeBatch(before, before * ratio, noise)
    assert 1 - 1e-9 <= found.speedup <= ratio * (1 + 1e-9)
    limit = LargeBatch(before, 2 * before + noise, noise)
    assert limit.efficiency == pytest.approx(0.5)
    assert found.largest == math.floor(2 * before + noise)
    assert (found.efficiency >= 0.5 - 1e-6) == (found.after <= 2 * before + noise + 1e-6 * noise)


@given(sizes, ratios)
def test_below_the_noise_scale_the_speedup_is_ideal_and_far_above_there_is_none(before, ratio):
    assert LargeBatch(before, before * ratio, 1e15).efficiency == pytest.approx(1.0, rel=1e-4)
    assert LargeBatch(before, before * ratio, 1e-9).speedup == pytest.approx(1.0)
    assert LargeBatch(before, before * ratio, math.inf).largest is None


def test_the_limit_is_told_in_processes():
    text = LargeBatch(64, 512, 100.0).text(1, 8)
    assert "batches of 512 instead of 64 need 2.1 times fewer updates, 27% of the ideal" in text
    assert "wasted beyond 3 processes, batches of 228" in text
    assert "up to 17 processes reach at least half" in LargeBatch(64, 128, 1000.0).text(1, 2)
    assert "no largest batch can be told" in LargeBatch(64, 128, math.inf).text(1, 2)


# ---- the trial -----------------------------------------------------------------------------


def test_a_rule_that_is_right_is_confirmed():
    found = rate_for_world(noisy_line(), SGD, after=4, engine="loop", progress=False)
    assert found.rule == "linear"
    assert found.recipe.lr == pytest.approx(0.08)
    assert (found.recipe.batch_size, found.recipe.steps) == (32, 100)
    assert found.recipe.lr in found.rates
    assert len(found.rates) >= 3
    assert found.updates == 25
    assert found.length == 100
    assert found.trained
    assert found.noise is not None
    assert found.limit is not None
    assert found.cost == pytest.approx(len(found.rates) * 0.25, abs=0.7)
    assert found.advice()


def misled() -> Recipe:
    """A recipe whose rate is far too low: then 4 times as much is, too."""
    return SGD.replace(lr=1e-5)


def test_a_rule_that_misses_is_corrected_and_told():
    found = rate_for_world(
        noisy_line(), misled(), after=4, factor=8.0, engine="loop", progress=False
    )
    assert not found.confirmed
    assert found.miss > MISS
    assert found.lr == max(found.rates) > found.recipe.lr
    assert found.best == found.recipe.replace(lr=found.lr)
    assert "Corrected" in found.advice()
    assert "of the drop" in found.advice()
    assert "the best may lie beyond" in found.advice()
    own, best = (found.losses[found.rates.index(lr)] for lr in (found.recipe.lr, found.lr))
    assert found.miss == pytest.approx((own - best) / (found.untrained - best))


def test_the_noise_rule_is_its_formula_with_the_measured_noise():
    found = rate_for_world(
        noisy_line(), SGD, after=4, rule="noise scale", engine="loop", progress=False
    )
    assert found.noise is not None
    expected = by_noise(SGD, 32, found.noise.samples)
    assert found.recipe.lr == pytest.approx(expected.lr)
    assert 0.02 <= found.recipe.lr <= 0.08


def test_adam_takes_the_square_root_and_the_betas_go_along():
    found = rate_for_world(noisy_line(), ADAM, after=4, further=0, engine="loop", progress=False)
    assert found.rule == "square root"
    assert found.recipe.lr == pytest.approx(2e-3)
    assert found.recipe.optimizer.value("betas")[0] == pytest.approx(0.9**4)


def test_fewer_processes_go_the_way_back():
    found = rate_for_world(noisy_line(), SGD.replace(batch_size=32, lr=0.08, steps=100), before=4,
                           after=1, further=0, engine="loop", progress=False)  # fmt: skip
    assert (found.recipe.batch_size, found.recipe.steps) == (8, 400)
    assert found.recipe.lr == pytest.approx(0.02)
    assert found.limit is None


def test_compression_is_left_out_of_the_trial_and_this_is_said():
    found = rate_for_world(noisy_line(), SGD.replace(compress="powersgd"), after=2, further=0,
                           engine="loop", progress=False)  # fmt: skip
    assert found.best.compress is None
    assert "with compress='powersgd()' the best rate may be another" in found.advice()


def test_the_same_question_has_the_same_answer():
    one, other = (
        rate_for_world(noisy_line(), SGD, after=2, engine="loop", progress=False) for _ in range(2)
    )
    assert one.plain() == other.plain()
    assert isinstance(one, WorldRate)


def test_the_report_gives_the_rate_and_the_miss():
    found = rate_for_world(
        noisy_line(), misled(), after=4, factor=8.0, engine="loop", progress=False
    )
    report = present(found)
    assert "train in 4 processes at a learning rate of" in report.title
    assert report.notice == found.advice()
    assert any(fact.name == "The rule misses" for fact in report.facts)


WRONG = [
    ({"after": 0}, BadValueError, "after=0 is out of bounds"),
    ({"after": 2.0}, BadTypeError, "after=2.0 is not a whole number"),
    ({"after": 2, "before": 0}, BadValueError, "before=0 is out of bounds"),
    ({"after": 1}, BadValueError, "before and after are both 1"),
    ({"after": 2, "before": 3}, BadValueError, "batch_size=8 is not shared out evenly by before=3"),
    ({"after": 2, "rule": "liner"}, BadValueError, "unknown rule 'liner': did you mean 'linear'"),
    ({"after": 2, "share": 0}, BadValueError, "share=0 is out of bounds"),
    ({"after": 2, "share": 0.001}, BadValueError, "share=0.001 of 200 updates is no update"),
    ({"after": 2, "factor": 1}, BadValueError, "factor=1 is out of bounds"),
    ({"after": 4096}, (BadValueError, TaskError), "batch"),
]


@pytest.mark.parametrize(("given", "kind", "message"), WRONG)
def test_what_is_wrong_is_said_before_training(given, kind, message):
    with pytest.raises(kind, match=message):
        rate_for_world(noisy_line(), SGD, engine="loop", progress=False, **given)


def test_an_optimizer_without_a_rule_and_a_batch_without_a_number_are_refused():
    with pytest.raises(BadValueError, match="no rule is known for how the rate of lbfgs"):
        rate_for_world(
            noisy_line(),
            Recipe(optimizer="lbfgs", batch_size=8, steps=400),
            after=2,
            engine="loop",
            progress=False,
        )
    with pytest.raises(BadValueError, match="the recipe's batch_size is 'all'"):
        rate_for_world(
            noisy_line(), SGD.replace(batch_size="all"), after=2, engine="loop", progress=False
        )
