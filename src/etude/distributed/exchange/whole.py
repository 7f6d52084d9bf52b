"""The exchange without compression: the mean of the gradients, by one sum over the processes."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor
from torch.futures import Future

from etude.distributed.exchange.base import GradientExchange, mean_of


class WholeExchange(GradientExchange[None]):
    """Exchanges whole gradients, as DDP does by itself, and counts the bytes."""

    def exchange(self, bucket: dist.GradBucket) -> Future[Tensor]:
        """Return the mean of the gradients."""
        return mean_of(self.group, bucket)
