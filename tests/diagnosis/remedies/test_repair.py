"""What trying remedies recommends, and that its sentences are true of full runs."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

import etude
from etude import Recipe, Task
from etude.diagnosis.finding import Cause
from etude.diagnosis.remedies import OF_CAUSE, REMEDIES, remedies_for, repair
from etude.diagnosis.remedies.beats import beats
from etude.diagnosis.remedies.edits import regularise_less, smooth_labels, warm_up
from etude.errors import BadValueError, UnknownNameError
from etude.record import Evaluation
from etude.trials.score import Goal
from tests.helpers import mlp

OF_THE_LOOP = {
    Cause.GRADIENTS_NOT_CLEARED,
    Cause.EVAL_MODE_IN_TRAINING,
    Cause.LABELS_DO_NOT_MATCH,
    Cause.BAD_DATA,
    Cause.DATA_NOT_SHUFFLED,
    Cause.NOT_REPEATABLE,
    Cause.SAMPLES_MIXED,
}
"""Causes that only their author can mend, in the loop, the data or the code of the model."""


def points(count: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
    """Six numbers a sample; the class says whether a sum is positive."""
    g = torch.Generator().manual_seed(3)
    x = torch.randn(count, 6, generator=g)
    return x, (x[:, 0] + x[:, 1] > 0).long()


TASK = Task(lambda: mlp(6, 12, 2), points(), loss=cross_entropy, metric="accuracy")
SLOW = Recipe(optimizer="sgd", lr=1e-4, steps=64, batch_size=32, evaluations=4)
GOOD = Recipe(optimizer="sgd", lr=0.3, steps=64, batch_size=32, evaluations=4)


@pytest.fixture(scope="module")
def mended() -> etude.diagnosis.remedies.Repair:
    """The repair of a rate that is much too low."""
    return repair(TASK, SLOW, ["lr_too_low"], progress=False, engine="loop")


def test_what_is_recommended_does_what_is_said(mended: etude.diagnosis.remedies.Repair) -> None:
    assert mended.recommended is not None
    assert mended.task is not None
    control, better = etude.train(TASK, SLOW), etude.train(mended.task, mended.recipe)
    assert mended.control.evaluation == control.evaluations[-1]
    assert mended.recommended.evaluation == better.evaluations[-1]
    before, after = control.evaluations[-1].loss, better.evaluations[-1].loss
    assert mended.recommended.gain == before - after > 0
    assert f"becomes {after:.4g} instead of {before:.4g}" in str(mended)


def test_the_mended_model_is_the_one_that_was_trained(
    mended: etude.diagnosis.remedies.Repair,
) -> None:
    assert mended.task is not None
    assert mended.model is not None
    again = etude.train(mended.task, mended.recipe)
    pairs = zip(mended.model.parameters(), again.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_result_is_plain_json(mended: etude.diagnosis.remedies.Repair) -> None:
    plain = json.loads(json.dumps(mended.to_dict(), allow_nan=False))
    assert plain["recommended"] in ("rate x 100", "usual rate")
    assert Recipe(**plain["recipe"]) == mended.recipe


def test_nothing_is_recommended_where_nothing_helps() -> None:
    found = repair(TASK, GOOD, ["unscaled_inputs", "too_much_regularisation"], progress=False)
    assert found.recommended is None
    assert found.recipe == GOOD
    assert found.task is not None
    assert found.task.train is TASK.train
    assert str(found).startswith("None of the remedies beats the unchanged run")


def test_a_remedy_drawn_at_random_says_where_the_cause_may_be_another() -> None:
    seeds = (
        repair(TASK, SLOW.replace(seed=seed), ["too_little_regularisation"], progress=False)
        for seed in range(14, 30)
    )
    found = next(one for one in seeds if one.chance_is_better)
    drawn = next(attempt for attempt in found.attempts if attempt.drawn)
    assert drawn.share == 0.25
    assert f"drawn at random, {drawn.name!r}, was better after a quarter" in str(found)


def test_a_run_that_diverges_is_mended() -> None:
    x = torch.linspace(-1, 1, 128)[:, None]
    steep = Task(lambda: nn.Linear(1, 1), (x, 3 * x), loss=mse_loss)
    hot = Recipe(optimizer="sgd", lr=50.0, steps=64, batch_size=32, schedule="constant()")
    found = repair(steep, hot, ["lr_too_high"], progress=False, engine="loop")
    assert found.recommended is not None
    assert found.recommended.name == "rate / 100"
    assert found.control.diverged
    assert "and the unchanged run diverges" in str(found)
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.slow
def test_deep_sigmoids_are_mended_by_a_rewrite_of_the_model() -> None:
    def deep() -> nn.Module:
        return mlp(6, *[16] * 8, 2, activation=nn.Sigmoid)

    task = Task(deep, points(), loss=cross_entropy, metric="accuracy")
    recipe = Recipe(lr=3e-3, steps=128, batch_size=32)
    found = repair(task, recipe, ["saturating_activation"], progress=False, engine="loop")
    assert found.recommended is not None
    assert "Sigmoid() -> ReLU()" in found.recommended.patch
    assert found.task is not None
    assert etude.train(found.task, found.recipe).evaluations[-1].metric > 0.9


@pytest.mark.slow
@settings(max_examples=8)
@given(budget=st.floats(2.5, 8.0), causes=st.lists(st.sampled_from(Cause), max_size=3))
def test_no_more_is_spent_than_the_budget(budget: float, causes: list[Cause]) -> None:
    found = repair(TASK, SLOW, causes, budget=budget, progress=False, engine="loop")
    assert found.cost <= budget + 1e-9
    assert sum(attempt.drawn for attempt in found.attempts) == 1


def test_the_pool_gives_the_bits_of_the_loop(mended: etude.diagnosis.remedies.Repair) -> None:
    pooled = repair(TASK, SLOW, ["lr_too_low"], progress=False, engine="pool")
    assert pooled.to_dict() == mended.to_dict()


def test_every_cause_that_can_be_mended_has_remedies_that_exist() -> None:
    assert set(OF_CAUSE) == set(Cause) - OF_THE_LOOP
    named = {name for names in OF_CAUSE.values() for name in names}
    assert named <= set(REMEDIES)


@given(st.lists(st.sampled_from(Cause), max_size=6))
def test_remedies_are_listed_once_and_the_first_of_each_cause_first(causes: list[Cause]) -> None:
    names = [remedy.name for remedy in remedies_for(causes)]
    assert len(names) == len(set(names))
    firsts = {OF_CAUSE[cause][0] for cause in causes if cause in OF_CAUSE}
    assert set(names[: len(firsts)]) == firsts


@pytest.mark.parametrize("remedy", REMEDIES.values(), ids=lambda remedy: remedy.name)
def test_every_remedy_trains_or_does_not_apply(remedy: etude.diagnosis.remedies.Remedy) -> None:
    applied = remedy.apply(TASK, SLOW)
    if applied is not None:
        assert applied.patch(SLOW)
        record = etude.train(applied.task, applied.recipe.replace(steps=2, evaluations=1))
        assert record.cost.steps == 2


def test_a_remedy_that_would_change_nothing_is_left_out() -> None:
    warm = SLOW.replace(schedule="warmup('5%') >> cosine()")
    assert REMEDIES["warmup"].apply(TASK, warm) is None
    assert REMEDIES["warmup"].apply(TASK, warm.replace(schedule="cosine()")) is not None
    assert REMEDIES["clip 90%"].apply(TASK, warm.replace(clip_norm=1.0)) is None
    assert REMEDIES["label smoothing"].apply(TASK, warm.replace(label_smoothing=0.2)) is None
    assert REMEDIES["all trained"].apply(TASK, warm) is None


@given(st.integers(2, 60))
def test_a_warmup_reaches_the_schedule_where_it_ends(percent: int) -> None:
    cold = SLOW.replace(steps=200, schedule="cosine()")
    edited = warm_up(percent)(TASK, cold)
    assert edited is not None
    before, after = (r.schedule.over(200) for r in (cold, edited))
    end = 2 * percent
    assert after(0) < before(0)
    assert [after(t) for t in range(end, 200)] == [before(t) for t in range(end, 200)]


def test_a_wrong_word_gets_a_fix() -> None:
    with pytest.raises(UnknownNameError, match="'lr_too_low'"):
        repair(TASK, SLOW, ["lr_to_low"], progress=False)
    with pytest.raises(BadValueError, match=r"budget=1 is too small .* at least 2.5"):
        repair(TASK, SLOW, ["lr_too_low"], budget=1.0, progress=False)


def test_labels_are_smoothed_where_the_loss_is_a_cross_entropy() -> None:
    x = torch.rand(32, 2)
    values = etude.Task(nn.Linear(2, 1), (x, x[:, :1]), loss=nn.functional.mse_loss)
    assert smooth_labels(values, SLOW) is None
    smooth = smooth_labels(TASK, SLOW)
    assert smooth is not None
    assert smooth.label_smoothing == 0.1


def test_a_layer_that_is_frozen_at_zero_is_trained() -> None:
    def frozen() -> nn.Module:
        net = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1))
        nn.init.zeros_(net[0].weight)
        net[0].requires_grad_(False)
        return net

    x = torch.rand(256, 2) * 2 - 1
    task = etude.Task(frozen, (x, 3 * x[:, :1]), loss=nn.functional.mse_loss)
    recipe = etude.Recipe(optimizer="adam", lr=0.02, steps=120, batch_size=32)
    found = repair(task, recipe, ["parameters_not_trained"], progress=False)
    assert found.recommended is not None
    assert found.recommended.name.startswith("all trained")
    assert "requires_grad=True" in found.recommended.patch
    assert not any(p.requires_grad for p in task.build()[0].parameters())


SLICES = st.lists(st.floats(0.01, 10.0), min_size=2, max_size=30)


@given(SLICES, st.floats(0.1, 0.9))
def test_what_beats_another_is_not_beaten_by_it(losses: list[float], factor: float) -> None:
    def of(parts: list[float]) -> Evaluation:
        return Evaluation(9, sum(parts) / len(parts), None, tuple(parts))

    goal = Goal()
    high, low = of(losses), of([factor * loss for loss in losses])
    assert not beats(high, low, goal)
    assert not beats(high, high, goal)
    if len(losses) > 13:
        assert beats(low, high, goal)


def test_one_huge_loss_does_not_hide_what_every_other_slice_shows() -> None:
    wild = Evaluation(9, 5000.0, None, (1.0,) * 15 + (79985.0,))
    fine = Evaluation(9, 0.1, None, (0.1,) * 16)
    lucky = Evaluation(9, 1.0, None, (1.0 - 1e-9, 1.0 + 1e-9) * 7 + (1.0, 2.0))
    assert beats(fine, wild, Goal())
    assert not beats(wild, fine, Goal())
    assert not beats(lucky, wild, Goal())


@given(st.floats(0.01, 0.99), st.none() | st.floats(0.01, 0.99))
@settings(max_examples=15, deadline=None)
def test_less_regularisation_removes_every_dropout(own: float, set_by: float | None) -> None:
    def net() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8), nn.Dropout(own), nn.Linear(8, 2))

    edited = regularise_less(
        Task(net, points(64), loss=cross_entropy), GOOD.replace(dropout=set_by)
    )
    assert edited == GOOD.replace(dropout=0.0)


def test_less_regularisation_has_nothing_to_remove_without_any() -> None:
    assert regularise_less(TASK, GOOD) is None
    none = Task(
        lambda: nn.Sequential(nn.Dropout(0.0), mlp(6, 12, 2)), points(64), loss=cross_entropy
    )
    assert regularise_less(none, GOOD) is None
