"""Recomputes the running statistics of batch normalisation, for weights that were not trained."""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch
from torch import nn

from etude.randomness import random_state_kept
from etude.tasks.sources.data import Cursor
from etude.tasks.task import Task
from etude.torch_internals import BATCH_NORMS
from etude.training.evaluation.evaluate import move
from etude.training.machine.eager import eagerly
from etude.training.objective import Context
from etude.training.state.snapshot import modes_kept

BATCHES = 32
"""The largest number of batches for the statistics, if an epoch has that many."""


def norms_with_statistics(model: nn.Module) -> list[Any]:
    """Return the batch normalisations of a model that keep running statistics.

    >>> len(norms_with_statistics(nn.Sequential(nn.BatchNorm1d(2), nn.LayerNorm(2))))
    1
    """
    return [m for m in model.modules() if isinstance(m, BATCH_NORMS) and m.track_running_stats]


def renew_statistics(
    task: Task, model: nn.Module, batch_size: int, autocast: Context, batches: int = BATCHES
) -> None:
    """Recompute the running mean and variance of every batch normalisation, in place.

    Each becomes the plain average over `batches` training batches. Averaged weights, and the
    evaluation weights of an optimizer, have other activations than the training weights, whose
    statistics do not fit them (Izmailov et al., 2018, arXiv:1803.05407). A model without batch
    normalisation does not change, and no data is read.

    Args:
        task: The task with the training data.
        model: The network.
        batch_size: The number of samples in one batch.
        autocast: A factory of the context of the forward pass.
        batches: The number of batches.
    """
    norms = norms_with_statistics(model)
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    device = next(model.parameters()).device
    data = task.train
    with modes_kept(model):
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain average over the batches
            norm.train()
        try:
            with eagerly(), random_state_kept(0), torch.no_grad(), data.untouched():
                # In the order of training: a set sorted by class gives batches of one class.
                shuffled = data.stream(batch_size, 0, Cursor())
                count = min(batches, data.steps_per_epoch(batch_size) or batches)
                for batch in islice(shuffled, count):
                    with autocast():
                        task.forward(model, move(batch, device))
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
