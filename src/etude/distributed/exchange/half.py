"""Gradients as 16-bit floats, by DDP's own hooks."""

from __future__ import annotations

from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import (
    bf16_compress_hook,
    fp16_compress_hook,
)
from torch.futures import Future

from etude.distributed.exchange.base import Bucket, GradientExchange
from etude.recipe_exchange import BrainExchange, HalfExchange


class HalfPrecisionExchange(GradientExchange[HalfExchange]):
    """Sends gradients as float16."""

    def exchange(self, bucket: Bucket) -> Future[Tensor]:
        """Return the mean of the rounded gradients."""
        return fp16_compress_hook(self.group, bucket)


class BrainFloatExchange(GradientExchange[BrainExchange]):
    """Sends gradients as bfloat16."""

    def exchange(self, bucket: Bucket) -> Future[Tensor]:
        """Return the mean of the rounded gradients."""
        return bf16_compress_hook(self.group, bucket)
