"""The weights to be judged, for optimizers that train at others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim import Optimizer

from etude.tasks.task import Task
from etude.training.batch_norm_statistics import renew_statistics
from etude.training.objective import Context
from etude.training.snapshot import Buffers


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
            renew_statistics(self.task, self.model, self.batch_size, self.autocast)

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
