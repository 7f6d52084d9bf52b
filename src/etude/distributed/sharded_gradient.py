"""The gradient of one update over several processes that keep parts of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from etude.distributed.communication import Communication
from etude.distributed.joint_gradient import DataParallelGradient, floating, has_other_buffers
from etude.distributed.sharding import set_exchanging
from etude.tasks.loss.weighted import WeightedLoss
from etude.tasks.sources.shards import Shard
from etude.tasks.task import Task
from etude.training.objective import Context
from etude.training.regularisation import Penalty


class ShardedGradient(DataParallelGradient):
    """Averages gradients over processes whose model was prepared by torch's `fully_shard`.

    The model gathers its weights before a block is computed, and leaves each process its part of
    the mean gradient. A parameter that some process does not reach has the gradient 0 there.

    Args:
        task: The task, with the loss that is trained.
        model: The network, whose parameters are sharded.
        penalty: The recipe's penalty, which is empty.
        autocast: A factory of the context of the forward pass.
        link: How this process talks to the others.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        penalty: Penalty,
        autocast: Context,
        link: Communication,
    ) -> None:
        super().__init__(task, model, penalty, autocast, link, wraps=False)
        self._shares_buffers = has_other_buffers(model)

    def forward(self, shard: Shard) -> tuple[WeightedLoss, Tensor | None]:
        """Return the loss of a share, scaled so that the mean over the processes is the batch's."""
        if self._shares_buffers:
            self._link.copy_from_first(list(self._model.buffers()))
        return super().forward(shard)

    def each(self, batches: Iterable[Shard], count: int, add: Callable[[Shard], None]) -> None:
        """Call `add`, which does a backward pass, on each batch; exchange gradients in the last."""
        for index, batch in enumerate(batches):
            set_exchanging(self._model, index == count - 1)
            add(batch)

    def _idle(self, mean: Tensor, output: Any) -> Tensor:
        """Return a loss of 0 whose graph goes through the whole model."""
        if bool(torch.isfinite(mean)) and mean.requires_grad:
            return mean * 0
        found = [t.sum() * 0 for t in floating(output) if t.requires_grad]
        return torch.stack([one.to(mean.dtype) for one in found or [mean * 0]]).sum()
