"""The largest entries of each gradient, with the others kept for later updates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.futures import Future

from etude.distributed.exchange.base import Bucket, GradientExchange
from etude.distributed.exchange.gather import gathered, own_part
from etude.recipe_exchange import TopK

PLACE = torch.int32
"""The type of an entry's place: a tensor of more entries does not fit into a device's memory."""


class TopKExchange(GradientExchange[TopK]):
    """Sends values and places of the largest entries to every process, which adds them up."""

    def __init__(self, policy: TopK, group: dist.ProcessGroup) -> None:
        super().__init__(policy, group)
        self._memory: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] = {}

    def before_update(self, step: int) -> None:
        """Note what was kept, in case the update is taken again."""
        super().before_update(step)
        self._before = dict(self._memory)

    def go_back(self, factor: float) -> None:
        """Keep what was kept before the update: what an overflow leaves is not finite."""
        self._memory = self._before
        super().go_back(factor)

    def rescale(self, factor: float) -> None:
        """Multiply what was kept."""
        self._memory = {name: kept * factor for name, kept in self._memory.items()}

    def exchange(self, bucket: Bucket) -> Future[Tensor]:
        """Return the mean over the processes of what each sent."""
        gradients = [gradient.reshape(-1) for gradient in bucket.gradients()]
        values, places = [], []
        for name, gradient in zip(self.names_in(bucket), gradients, strict=True):
            sent, at, self._memory[name] = picked(
                gradient, self._memory.get(name), self.policy.ratio
            )
            values.append(sent)
            places.append(at)
        own = packed(values, places)
        rows = [torch.empty_like(own) for _ in range(self.size)]
        work: Any = dist.all_gather(rows, own, group=self.group, async_op=True)
        counts = [len(at) for at in places]

        def added(done: Any) -> Tensor:
            done.value()  # raises the error of the collective, if there was one
            for gradient in gradients:
                gradient.zero_()
            for row in rows:
                of_rank = unpacked(row, counts, bucket.buffer().dtype)
                for gradient, (sent, at) in zip(gradients, of_rank, strict=True):
                    gradient.index_add_(0, at, sent)
            mean: Tensor = bucket.buffer().div_(self.size)
            return mean

        return work.get_future().then(added)  # type: ignore[no-any-return]

    def state(self) -> dict[str, Any]:
        """Return what each process has kept for later."""
        group, device = self.group.inner, self.device
        return {
            "memory": {
                name: gathered(group, self._memory[name], device) for name in sorted(self._memory)
            }
        }

    def load(self, saved: Mapping[str, Any], processes: int) -> None:
        """Restore what each process has kept."""
        self._memory = {
            name: own_part(kept, self.group.rank(), self.size).to(self.device)
            for name, kept in saved["memory"].items()
        }


def picked(gradient: Tensor, memory: Tensor | None, ratio: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the largest entries of gradient plus memory, their places, and what is left.

    What is left of 16-bit gradients is kept in float32: a sum in their own type would lose entries
    that are small beside those that wait.

    Args:
        gradient: (n,).
        memory: (n,) what was left before; None for nothing.
        ratio: The share that is picked, at least one entry.

    >>> picked(torch.tensor([3.0, -1.0, 0.5]), torch.tensor([0.0, -3.0, 0.5]), 0.3)
    (tensor([-4.]), tensor([1]), tensor([3., 0., 1.]))
    """
    wide = gradient.float() if gradient.dtype.itemsize == 2 else gradient
    left = wide.clone() if memory is None else wide + memory
    count = min(left.numel(), math.ceil(ratio * left.numel()))
    at = left.abs().topk(count, sorted=False).indices
    sent = left[at].to(gradient.dtype)
    if wide is gradient:
        left[at] = 0
    else:  # what rounding takes from it waits too
        left[at] -= sent
    return sent, at, left


def packed(values: Sequence[Tensor], places: Sequence[Tensor]) -> Tensor:
    """Return the values and places of several tensors as bytes."""
    parts = (torch.cat(list(values)), torch.cat(list(places)).to(PLACE))
    return torch.cat([part.view(torch.uint8) for part in parts])


def unpacked(row: Tensor, counts: Sequence[int], dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """Return the values and places that `packed` joined.

    Args:
        row: The bytes.
        counts: The number of entries of each tensor.
        dtype: The type of the values.

    >>> row = packed([torch.tensor([5.0, 6.0])], [torch.tensor([0, 3])])
    >>> unpacked(row, [2], torch.float32)
    [(tensor([5., 6.]), tensor([0, 3]))]
    """
    end = sum(counts) * dtype.itemsize
    # A copy starts at an address that fits every type.
    values = row[:end].clone().view(dtype)
    places = row[end:].clone().view(PLACE).long()
    return list(
        zip(torch.split(values, list(counts)), torch.split(places, list(counts)), strict=True)
    )
