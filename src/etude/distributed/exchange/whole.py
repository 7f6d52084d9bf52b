"""The exchange without compression: the mean of the gradients, by one sum over the processes."""

from __future__ import annotations

from torch import Tensor
from torch.futures import Future

from etude.distributed.exchange.base import Bucket, GradientExchange, mean_of


class WholeExchange(GradientExchange[None]):
    """Exchanges whole gradients, as DDP does by itself, and counts the bytes."""

    def exchange(self, bucket: Bucket) -> Future[Tensor]:
        """Return the mean of the gradients."""
        return mean_of(self.group, bucket)
