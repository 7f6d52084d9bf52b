"""Norms of many tensors in few calls; nothing is read back from the device.

A tensor of more than `MOST` entries is read at evenly spaced entries. Its norm is then estimated:

    ‖t‖ ≈ (N/n)^(1/2) · ‖n of the N entries‖

For entries of similar sizes the relative error is about (2n)^(-1/2), one percent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from etude.torch_internals import foreach

MOST = 4_096
"""How many entries of a tensor are read."""


def stride_of(shape: Sequence[int], most: int = MOST) -> int:
    """Return the distance between the entries that are read.

    It has no factor in common with any side, so that it does not stay in one row or column.

    >>> stride_of((64, 64)), stride_of((512, 512))
    (1, 65)
    """
    count = math.prod(shape)
    if count <= most:
        return 1
    stride = -(-count // most)
    while any(math.gcd(stride, side) > 1 for side in shape):
        stride += 1
    return stride


def entries(tensor: Tensor) -> Tensor:
    """Return the entries of a tensor that are read, as a view where the layout allows it.

    >>> entries(torch.arange(6.0).reshape(2, 3)).shape, entries(torch.zeros(512, 512)).shape
    (torch.Size([2, 3]), torch.Size([4033]))
    """
    tensor = tensor.detach()
    if tensor.is_sparse:
        tensor = tensor.coalesce().values()
    elif tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    if tensor.numel() <= MOST:
        return tensor
    stride = stride_of(tensor.shape)
    count = -(-tensor.numel() // stride)
    if tensor.is_contiguous() or _dense(tensor):
        return tensor.as_strided((count,), (stride,))
    return tensor.reshape(-1)[::stride]


def _dense(tensor: Tensor) -> bool:
    forms = {4: torch.channels_last, 5: torch.channels_last_3d}
    form = forms.get(tensor.ndim)
    return form is not None and tensor.is_contiguous(memory_format=form)


def scale_of(tensor: Tensor, read: Tensor) -> float:
    """Return what the norm of the entries read is multiplied with."""
    if tensor.is_sparse or read.numel() == 0:
        return 1.0
    return math.sqrt(tensor.numel() * (2 if tensor.is_complex() else 1) / read.numel())


def norms(tensors: Sequence[Tensor]) -> Tensor:
    """Return the norms of some tensors as one tensor on the first one's device."""
    found = foreach.norm(list(tensors), 2, dtype=_dtype(tensors))
    device = found[0].device
    if any(one.device != device for one in found):
        found = [one.to(device) for one in found]
    return torch.stack(found)


def _dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    double = any(tensor.dtype == torch.float64 for tensor in tensors)
    return torch.float64 if double else torch.float32
