"""What the tests of the torch adapter share."""

import torch

from etude.schedules import (
    Clock,
    cosine,
    warmup,
)

CLOCK = Clock(horizon=200, steps_per_epoch=20, samples_per_step=8, tokens_per_step=64)


S = 0.5 * (warmup(10) >> cosine(50, floor=0.1))


def rates(optimizer, name="lr"):
    return [float(group[name]) for group in optimizer.param_groups]


def parameter():
    return [torch.nn.Parameter(torch.zeros(1))]
