"""Norms of many tensors in few calls; nothing is read back from the device.

A tensor of more than `MOST` entries is read in 64 blocks of 64 neighbours, spread over it. Its norm
is then estimated:

    ‖t‖ ≈ (N/n)^(1/2) · ‖n of the N entries‖

For entries of similar sizes the relative error is about (2n)^(-1/2), one percent. Single entries
would be spread more evenly, but each costs the processor a line of its cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from etude.torch_internals import foreach

BLOCKS = WIDTH = 64
MOST = BLOCKS * WIDTH
"""How many entries of a tensor are read."""


def stride_of(shape: Sequence[int]) -> int:
    """Return the distance between two blocks of entries that are read.

    It is some rows and .618 of a row, so that the blocks do not stay in the same columns.

    >>> stride_of((512, 512)) / 512
    7.6171875
    """
    count = math.prod(shape)
    most = (count - WIDTH) // (BLOCKS - 1)
    row = count // shape[0]
    stride = most // row * row + round(0.618 * row)
    if stride > most:
        stride -= row
    return stride if stride >= WIDTH else most


def entries(tensor: Tensor) -> Tensor:
    """Return the entries of a tensor that are read, as a view where the layout allows it.

    >>> entries(torch.arange(6.0).reshape(2, 3)).shape, entries(torch.zeros(512, 512)).shape
    (torch.Size([2, 3]), torch.Size([64, 64]))
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
    if not (tensor.is_contiguous() or _dense(tensor)):
        tensor = tensor.contiguous()
    return tensor.as_strided((BLOCKS, WIDTH), (stride_of(tensor.shape), 1))


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
