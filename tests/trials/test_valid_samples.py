"""On how many validation samples rates are compared, and that it is the same ones for all."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from etude import Recipe, Task, tasks
from etude.errors import BadTypeError, BadValueError
from etude.tasks.sources.data import IndexedData
from etude.training.clock import clock_of
from etude.training.evaluation.evaluate import PARTS
from etude.trials.valid_samples import (
    GRADIENT,
    KEPT,
    LEAST,
    PAUSES,
    SHARE,
    UPDATES,
    affordable,
    compared_on,
    drawn,
    leaves_room,
    only_at_pauses,
)

RECIPE = Recipe(steps=40, batch_size=64)


def large(valid: int = 3 * KEPT, loader: bool = False) -> Task:
    """A task whose validation rows are numbered."""
    x = torch.arange(valid, dtype=torch.float32)[:, None]
    y = torch.zeros(valid, dtype=torch.long)
    held = DataLoader(TensorDataset(x, y), batch_size=512) if loader else (x, y)
    return Task(lambda: nn.Linear(1, 2), (x[:100], y[:100]), held, loss=cross_entropy)


@given(st.integers(PARTS, 5_000), st.data())
def test_a_subset_is_drawn_without_repeats_and_evenly_from_every_segment(samples, data):
    count = data.draw(st.integers(PARTS, samples))
    rows = drawn(samples, count)
    assert len(rows) == count
    assert torch.equal(rows, rows.unique())
    assert int(rows[0]) >= 0
    assert int(rows[-1]) < samples
    for i in range(PARTS):
        first, end = samples * i // PARTS, samples * (i + 1) // PARTS
        taken = int(((rows >= first) & (rows < end)).sum())
        assert abs(taken - count * (end - first) / samples) < 2


@given(st.integers(1, 10**6), st.integers(1, 90), st.integers(1, 4), st.integers(1, 100))
def test_evaluations_take_a_fifth_of_the_gradients_work_at_most_or_the_least(
    steps, batch_size, accumulate, evaluations
):
    task = large(100)
    recipe = Recipe(
        steps=steps, batch_size=batch_size, accumulate=accumulate, evaluations=evaluations
    )
    count = affordable(task, recipe)
    work = GRADIENT * steps * batch_size * accumulate
    own = 0 if only_at_pauses(task, recipe) else evaluations
    assert count == LEAST or count * (own + 1 + PAUSES) <= SHARE * work * (1 + 1e-9)
    many = evaluations + 1 + PAUSES
    too_short = steps * accumulate < UPDATES * many
    assert bool(own) != (too_short or LEAST * many > SHARE * work * (1 - 1e-9))
    assert count >= LEAST
    assert affordable(task, recipe.replace(lr=0.5, seed=7)) == count


def test_a_large_set_is_cut_the_same_way_for_every_rate_and_seed():
    task = large()
    first, second = (compared_on(task, RECIPE.replace(seed=s, lr=0.1 + s)) for s in (0, 1))
    assert first.valid.samples == LEAST
    assert torch.equal(first.valid.tensors[0], second.valid.tensors[0])
    assert first.train is task.train
    assert compared_on(task, RECIPE, 1_000).valid.samples == 1_000


@pytest.mark.parametrize("name", ["digits-mlp", "cancer-mlp", "diabetes-mlp"])
def test_a_small_set_is_left_whole(name):
    task = tasks.get(name)
    recipe = Recipe(**task.defaults)
    assert isinstance(task.valid, IndexedData)
    assert task.valid.samples <= KEPT
    assert compared_on(task, recipe) is task
    assert compared_on(task, recipe.replace(steps=16)) is task


def test_what_the_training_can_afford_is_evaluated_whole():
    task = large()
    long = Recipe(steps=40_000, batch_size=64)
    assert clock_of(task, long).horizon == 40_000
    assert compared_on(task, long) is task
    assert compared_on(task, RECIPE, "all") is task
    assert compared_on(task, RECIPE, None) is task
    assert compared_on(task, RECIPE, 10**9) is task


def test_a_tuning_that_began_with_larger_parts_keeps_them():
    task = large()
    assert compared_on(task, RECIPE, least=3_000).valid.samples == 3_000
    assert compared_on(task, RECIPE, least=3 * KEPT) is task


@given(st.integers(1, 10**7), st.integers(1, 30), st.integers(1, 90))
def test_what_runs_leave_of_their_fifth_is_for_one_more_evaluation(gradients, runs, evaluations):
    # The evaluations of runs that keep to `affordable`; 3/20 of the gradients' passes are left.
    evaluated = runs * evaluations * int(SHARE * GRADIENT * gradients / evaluations)
    left = int((SHARE / (1 - SHARE) - SHARE) * GRADIENT * runs * gradients * (1 - 1e-9))
    assert leaves_room(runs * gradients, evaluated, left)
    assert not leaves_room(runs * gradients, 0, GRADIENT * runs * gradients // 4 + 1)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"early_stopping": 3}, "early_stopping"),
        ({"schedule": "plateau(patience=2)"}, "the schedule plateau"),
        ({"schedules": {"weight_decay": "0.1 * plateau(patience=2)"}}, "the weight_decay"),
    ],
)
def test_where_evaluations_change_the_run_it_hears_all_samples(changes, what):
    task, recipe = large(), RECIPE.replace(**changes)
    assert compared_on(task, recipe) is task
    assert compared_on(task, RECIPE, "auto", [recipe]) is task
    with pytest.raises(BadValueError, match=f"valid_samples=1000: {what}.* give 'all'"):
        compared_on(task, recipe, 1_000)


class Stream(IterableDataset):
    def __init__(self, task: Task) -> None:
        self.rows = task.valid.tensors

    def __iter__(self):
        return zip(*self.rows, strict=True)


def test_a_stream_is_left_whole_and_a_loader_is_not():
    loader = large(loader=True)
    assert compared_on(loader, RECIPE).valid.samples == LEAST
    task = replace(large(), valid=Stream(large()))
    assert compared_on(task, RECIPE) is task
    with pytest.raises(BadTypeError, match=r"valid_samples=1000 needs .* or .all."):
        compared_on(task, RECIPE, 1_000)


@pytest.mark.parametrize("wanted", [True, 0.5, "some"])
def test_what_is_no_number_of_samples_is_refused(wanted):
    with pytest.raises(BadTypeError, match=r"valid_samples=.*'auto' or 'all'"):
        compared_on(large(100), RECIPE, wanted)


@pytest.mark.parametrize("wanted", [-1, 0, PARTS - 1])
def test_fewer_samples_than_slices_are_refused(wanted):
    with pytest.raises(BadValueError, match=f"valid_samples={wanted} is out of bounds.* 16"):
        compared_on(large(100), RECIPE, wanted)
