"""The weights to evaluate, for optimizers that train at other weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.optim import Optimizer

from etude.tasks.task import Task
from etude.training.evaluation.batch_norm_statistics import renew_statistics
from etude.training.objective import Context
from etude.training.state.snapshot import weights_kept


class EvaluationWeights:
    """Sets a model to its optimizer's evaluation weights, and exactly back.

    Schedule-Free trains at a point between its average and its fast weights; `optimizer.eval()`
    sets the average. `optimizer.train()` would round, so the training weights are saved and
    restored. Batch normalisation's statistics belong to the training weights: for the evaluation
    weights they are recomputed from training batches.

    Args:
        task: The task, whose training batches the statistics are computed from.
        model: The network.
        optimizer: An optimizer with `train()` and `eval()`.
        batch_size: The number of samples in a batch.
        autocast: A factory of the context of the forward pass.
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
        """Whether the model has its evaluation weights."""
        return not self.optimizer.param_groups[0]["train_mode"]

    def settle(self) -> None:
        """Set the evaluation weights permanently."""
        if not self.settled:
            self.optimizer.eval()  # type: ignore[attr-defined]
            renew_statistics(self.task, self.model, self.batch_size, self.autocast)

    def unsettle(self) -> None:
        """Set the training weights again."""
        self.optimizer.train()  # type: ignore[attr-defined]

    @contextmanager
    def judged(self) -> Iterator[None]:
        """Set the evaluation weights inside a block."""
        if self.settled:
            yield
            return
        with weights_kept(self.model, self.model.parameters()):
            self.settle()
            try:
                yield
            finally:
                self.unsettle()
