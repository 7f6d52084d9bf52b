"""The weights to be judged, for optimizers that train at others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import torch
from torch import nn
from torch.optim import Optimizer

from etude.randomness import random_state_kept
from etude.tasks.data import Cursor
from etude.tasks.task import Task
from etude.torch_internals import BATCH_NORMS
from etude.training.evaluate import move
from etude.training.objective import Context
from etude.training.snapshot import Buffers

BATCHES = 32
"""Batches from which running statistics are taken anew."""


class EvaluationWeights:
    """Moves a model to the weights its optimizer wants judged, and back to the bit.

    Schedule-Free trains at a point between its average and its fast weights; `optimizer.eval()`
    moves to the average. Its way back rounds, so that the training weights are kept and put
    back. Batch normalisation's statistics belong to the training weights: they are taken anew
    from training batches.

    Args:
        task: Whose training batches the statistics are taken from.
        model: The network.
        optimizer: One with `train()` and `eval()`.
        batch_size: Samples in one of the batches.
        autocast: A factory of the context the forward pass runs in.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        optimizer: Optimizer,
        batch_size: int,
        autocast: Context,
    ) -> None:
        self.task, self.model, self.optimizer = task, model, optimizer
        self.batch_size, self.autocast = batch_size, autocast
        self.unsettle()

    @property
    def settled(self) -> bool:
        """Whether the model is at the weights to be judged already."""
        return not self.optimizer.param_groups[0]["train_mode"]

    def settle(self) -> None:
        """Move to the weights to be judged, for good."""
        if not self.settled:
            self.optimizer.eval()  # type: ignore[attr-defined]
            self._renew_statistics()

    def unsettle(self) -> None:
        """Go back to the weights to be trained."""
        self.optimizer.train()  # type: ignore[attr-defined]

    @contextmanager
    def judged(self) -> Iterator[None]:
        """Be at the weights to be judged for a block."""
        if self.settled:
            yield
            return
        kept = [(p, p.detach().clone()) for p in self.model.parameters()]
        buffers = Buffers(self.model)
        self.settle()
        try:
            yield
        finally:
            self.unsettle()
            with torch.no_grad():
                for parameter, value in kept:
                    parameter.copy_(value)
                buffers.restore()

    def _renew_statistics(self) -> None:
        norms = [
            m for m in self.model.modules() if isinstance(m, BATCH_NORMS) and m.track_running_stats
        ]
        if not norms:
            return
        modes = [(module, module.training) for module in self.model.modules()]
        momenta = [norm.momentum for norm in norms]
        device = next(self.model.parameters()).device
        data = self.task.train
        self.model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain average over the batches
            norm.train()
        try:
            with random_state_kept(0), torch.no_grad(), data.untouched():
                # In the order of training: a set sorted by class would give each batch one class.
                shuffled = data.stream(self.batch_size, 0, Cursor())
                count = min(BATCHES, data.steps_per_epoch(self.batch_size) or BATCHES)
                for batch in islice(shuffled, count):
                    with self.autocast():
                        self.task.forward(self.model, move(batch, device))
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
            for module, training in modes:
                module.training = training
