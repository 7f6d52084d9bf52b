"""What each process keeps for itself, gathered for a checkpoint and shared out again."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def gathered(group: dist.ProcessGroup, tensor: Tensor, device: torch.device) -> Tensor:
    """Return the tensors of all processes, stacked: (processes, *shape), on the CPU.

    Every process calls it with a tensor of the same shape and type.

    Args:
        group: The process group.
        tensor: This process's.
        device: Where the group's backend takes tensors.
    """
    plain = tensor.detach().to(device).contiguous()
    if plain.numel() == 0:
        return torch.stack([plain.cpu()] * group.size())
    # As bytes: some backends take only a few types.
    own = plain.reshape(-1).view(torch.uint8)
    rows = [torch.empty_like(own) for _ in range(group.size())]
    dist.all_gather(rows, own, group=group)
    return torch.stack([row.view(plain.dtype).view(plain.shape).cpu() for row in rows])


def own_part(stacked: Tensor, rank: int, processes: int) -> Tensor:
    """Return a process's part of what `gathered` stacked.

    In a run of another number of processes it is the mean, so that the mean over processes stays
    what it was; what cannot be averaged, such as counts, is that of the first process.

    Args:
        stacked: (processes before, *shape).
        rank: This process.
        processes: Their number now.

    >>> own_part(torch.tensor([1.0, 3.0]), 1, 2), own_part(torch.tensor([1.0, 3.0]), 2, 3)
    (tensor(3.), tensor(2.))
    """
    if len(stacked) == processes:
        return stacked[rank].clone()
    if stacked.is_floating_point() or stacked.is_complex():
        return stacked.mean(0)
    return stacked[0].clone()
