"""One rule says how many updates an epoch has: what the loop does, and what the clock says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

from etude import Recipe, Task, train
from etude.errors import BadValueError
from etude.schedules import Clock


def batches_and_updates(samples, batch, accumulation, epochs, drop_last) -> tuple[int, int]:
    """Train by a real loop; return the batches that it took and the updates that it did."""
    x = torch.randn(samples, 2)
    data = (x, x[:, :1])
    if drop_last is not None:
        data = DataLoader(TensorDataset(*data), batch, shuffle=True, drop_last=drop_last)
    taken = 0

    def loss(output, target):
        nonlocal taken
        taken += output.requires_grad
        return mse_loss(output, target)

    task = Task(lambda: nn.Linear(2, 1), data, valid=(x, x[:, :1]), loss=loss)
    recipe = Recipe(
        optimizer="sgd",
        lr=0.01,
        steps=f"{epochs} epochs",
        schedule="cosine()",
        batch_size=batch if drop_last is None else None,
        accumulate=accumulation,
        evaluations=1,
    )
    record = train(task, recipe)
    return taken, record.cost.steps


@settings(max_examples=25, deadline=None)
@given(
    samples=st.integers(1, 40),
    batch=st.integers(1, 12),
    accumulation=st.integers(1, 4),
    epochs=st.integers(1, 4),
    drop_last=st.sampled_from([None, True, False]),
)
def test_the_clock_counts_the_updates_of_the_loop(samples, batch, accumulation, epochs, drop_last):
    batch = min(batch, samples)
    clock = Clock.of_data(
        samples,
        batch,
        accumulation=accumulation,
        drop_last=drop_last is not False,  # tensors are batched as with drop_last
        horizon=f"{max(epochs, accumulation)} epochs",
    )
    taken, updates = batches_and_updates(
        samples, batch, accumulation, max(epochs, accumulation), drop_last
    )
    assert updates == clock.horizon
    # The first batch is tried on a copy before training, and once more beside its halves.
    assert taken - updates * accumulation in (0, 1, 2)


@pytest.mark.parametrize("drop_last", [None, True, False])
def test_two_epochs_of_ten_batches_by_three_are_seven_updates(drop_last):
    assert batches_and_updates(100, 10, 3, 2, drop_last)[1] == 7
    clock = Clock.of_data(100, 10, accumulation=3, horizon="2 epochs")
    assert clock.horizon == 7
    whole = Clock.of_data(100, 10, accumulation=3, across_epochs=False, horizon="2 epochs")
    assert whole.horizon == 8  # as in Lightning and the Hugging Face Trainer


@pytest.mark.parametrize("steps", ["0 epochs", "0 samples"])
def test_a_length_of_nothing_is_refused_by_the_recipe(steps):
    with pytest.raises(BadValueError, match=rf"steps='{steps}' is out of bounds: give more than 0"):
        Recipe(steps=steps)


def test_a_length_of_less_than_an_update_is_called_steps():
    x = torch.zeros(64, 1)
    task = Task(lambda: nn.Linear(1, 1), (x, x), loss=mse_loss)
    with pytest.raises(BadValueError, match=r"steps='0\.01 epochs' is less than one update of"):
        train(task, Recipe(steps="0.01 epochs", batch_size=16))
