"""How one process talks to the others: sums, means and plain values, over torch.distributed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed import ProcessGroup

E = TypeVar("E", bound=BaseException)

AGREED = "etude_agreed"
"""The attribute of an error that every process raises at the same place."""


class Communication:
    """Reduces tensors and exchanges plain values between processes.

    Every process must call the same methods in the same order.

    Args:
        device: The device of this process.
        control: A group over gloo for plain values and for tensors in CPU memory. DDP has the
            default group to itself, so that no message waits for a bucket of gradients.
    """

    def __init__(self, device: torch.device, control: ProcessGroup) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.device, self.control = device, control

    def _group(self, tensor: Tensor) -> ProcessGroup | None:
        return self.control if tensor.device.type == "cpu" else None

    def sum_in_graph(self, values: Tensor) -> None:
        """Replace a tensor by its sum over the processes."""
        dist.all_reduce(values, group=self._group(values))

    def sums(self, values: Tensor, *, on_device: bool = False) -> Tensor:
        """Return the sum of a tensor over the processes; it is the same to the bit on all."""
        total = values.clone() if on_device else values.cpu().clone()
        dist.all_reduce(total, group=self._group(total))
        return total

    def largest(self, values: Tensor) -> Tensor:
        """Return the largest of each value in any process."""
        found = values.cpu().clone()
        dist.all_reduce(found, op=dist.ReduceOp.MAX, group=self.control)
        return found

    def weights(
        self, weight: float | Tensor, rows: float, known: bool
    ) -> tuple[float | Tensor, float | Tensor]:
        """Return this process's weight in a batch, and that of all together.

        Args:
            weight: The weight of the loss of its share.
            rows: The number of samples in its share, used where one process knows no weight.
            known: Whether the weight is known.
        """
        mine = torch.tensor([0.0, rows, float(not known)], dtype=torch.float64, device=self.device)
        mine[0] = weight
        total = self.sums(mine, on_device=True)
        if self.device.type == "cpu":
            everyone = total.tolist()
            return (rows, everyone[1]) if everyone[2] else (float(mine[0]), everyone[0])
        unknown = total[2] > 0
        return torch.where(unknown, mine[1], mine[0]), torch.where(unknown, total[1], total[0])

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their mean over the processes, in one message for each type."""
        alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = defaultdict(list)
        for tensor in tensors:
            alike[tensor.device, tensor.dtype].append(tensor)
        for group in alike.values():
            joined = torch.cat([tensor.detach().reshape(-1) for tensor in group])
            dist.all_reduce(joined, group=self._group(joined))
            joined /= self.size
            parts = torch.split(joined, [tensor.numel() for tensor in group])
            with torch.no_grad():
                for tensor, part in zip(group, parts, strict=True):
                    tensor.copy_(part.view_as(tensor))

    def gather(self, value: Any) -> list[Any]:
        """Return every process's value, in the order of their ranks."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self.control)
        return found

    def from_first(self, value: Any) -> Any:
        """Return the value of process 0."""
        held = [value]
        dist.broadcast_object_list(held, src=0, group=self.control)
        return held[0]

    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by those of process 0."""
        for tensor in tensors:
            dist.broadcast(tensor, src=0, group=self._group(tensor))

    def barrier(self) -> None:
        """Wait until every process has come here."""
        dist.barrier(group=self.control)

    @staticmethod
    def agreed(error: E) -> E:
        """Mark an error as one that every process raises at the same place."""
        setattr(error, AGREED, True)
        return error
