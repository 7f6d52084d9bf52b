"""What the parity tests share: optimizers, and the values that a peer gives step by step."""

import warnings

import torch
from hypothesis import settings

few = settings(max_examples=40, deadline=None)
"""Enough to meet the corners, quick enough to be run at every change."""

LR = 0.3


def sgd(*lrs, **options):
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (lrs or (LR,))]
    return torch.optim.SGD(groups, lr=LR, **{"momentum": 0.9, **options})


def adamw(*lrs, **options):
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (lrs or (LR,))]
    return torch.optim.AdamW(groups, lr=LR, **options)


def stepped(scheduler, steps, name="lr", group=0):
    """Return what a live scheduler sets at steps 0, 1, ..."""
    values = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(steps):
            values.append(float(scheduler.optimizer.param_groups[group][name]))
            scheduler.step()
    return values


def assert_same(schedule, expected, tolerance=1e-12, peak=None):
    """Every step agrees to a tolerance of the peak, as a scalar."""
    scale = tolerance * max(map(abs, [*expected, peak or 0.0, 1e-30]))
    for t, value in enumerate(expected):
        assert abs(schedule(t) - value) <= scale, (t, schedule(t), value, schedule)
