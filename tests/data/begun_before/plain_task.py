"""Exact data: every number is a small multiple of 1/8, so that no machine rounds it otherwise."""

import torch
from torch.nn.functional import mse_loss

from etude import Recipe, Task

inputs = torch.arange(96.0).reshape(48, 2).remainder(7) / 8
targets = inputs.sum(1, keepdim=True)


def network():
    return torch.nn.Linear(2, 1)


def task():
    return Task(network, (inputs, targets), loss=mse_loss)


recipe = Recipe(optimizer="sgd", lr=0.05, steps=16, batch_size=8, evaluations=4, seed=5)
