"""Norms of many tensors in few calls; nothing is read back from the device.

The entries that are read are copied into one buffer for all tensors, whose rows hold 64 numbers of
one tensor each; differences, sums and norms are then single calls on whole buffers.

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


def variance_and_mean(
    values: Tensor, dim: int | None = None, correction: int = 1
) -> tuple[Tensor, Tensor]:
    """Return what `torch.var_mean` returns, in a third of its time on a CPU.

    Args:
        values: The numbers.
        dim: The axis, 0 or None for all.
        correction: What is taken from the count of the variance.

    >>> variance, mean = variance_and_mean(torch.tensor([1.0, 2.0, 3.0]))
    >>> float(variance), float(mean)
    (1.0, 2.0)
    """
    count = values.numel() if dim is None else values.shape[dim]
    mean = values.mean() if dim is None else values.mean(dim)
    squares = (values - mean).square_()
    return (squares.sum() if dim is None else squares.sum(dim)) / (count - correction), mean


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


def count_of(tensor: Tensor) -> int:
    """Return how many real numbers of a tensor are read."""
    return min(MOST, tensor.numel() * (2 if tensor.is_complex() else 1))


def entries(tensor: Tensor) -> Tensor:
    """Return the entries of a tensor that are read, as a view where the layout allows it.

    >>> entries(torch.arange(6.0).reshape(2, 3)).shape, entries(torch.zeros(512, 512)).shape
    (torch.Size([2, 3]), torch.Size([64, 64]))
    """
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


class Entries:
    """The entries read of some tensors, in one buffer.

    Args:
        layout: Where they lie.
    """

    def __init__(self, layout: EntryLayout) -> None:
        self.layout = layout
        self.rows = torch.zeros(layout.size, WIDTH, dtype=layout.dtype, device=layout.device)
        flat = self.rows.view(-1)
        self._flat = [
            flat[start * WIDTH : start * WIDTH + count]
            for start, count in zip(layout.starts, layout.counts, strict=True)
        ]
        self._shaped = [
            part.view(shape) for part, shape in zip(self._flat, layout.shapes, strict=True)
        ]

    def copy(self, places: Sequence[int], tensors: Sequence[Tensor]) -> None:
        """Copy the entries of tensors in place of what was held at their places."""
        targets, given = [], []
        plans = self.layout.plans
        for place, tensor in zip(places, tensors, strict=True):
            target = self._shaped[place]
            shape, stride = plans[place]
            if tensor.layout is torch.strided and tensor.shape == shape:  # the usual case, fast
                if not stride:
                    targets.append(target)
                    given.append(tensor)
                    continue
                if tensor.is_contiguous():
                    targets.append(target)
                    given.append(tensor.as_strided((BLOCKS, WIDTH), (stride, 1)))
                    continue
            read = entries(tensor)
            if read.shape == target.shape and not tensor.is_sparse:
                targets.append(target)
                given.append(read)
            else:  # a sparse gradient has fewer values
                self._copy_values(place, tensor, read)
        if targets:
            foreach.copy_(targets, given)

    def _copy_values(self, place: int, tensor: Tensor, read: Tensor) -> None:
        part = self._flat[place].zero_()
        values = read.reshape(-1)[: len(part)]
        part[: len(values)].copy_(values)
        known = tensor.coalesce().values().numel() if tensor.is_sparse else tensor.numel()
        part.mul_(math.sqrt(known / max(1, len(values))) / self.layout.scales[place])


class EntryLayout:
    """Where the entries read of some tensors lie in a buffer, and how their norms are taken.

    Args:
        tensors: The tensors; buffers are for any others of their shapes.

    Attributes:
        starts: The first row of each tensor.
        counts: How many of its entries are read.
        shapes: The shape of these entries.
        scales: What the norm of these entries is multiplied with.
        size: The number of rows.
        plans: The shape of each tensor, and the distance between two blocks of a contiguous one; 0
            if all of it is read. None instead of a shape where it is not real.

    >>> layout = EntryLayout([torch.zeros(3), torch.zeros(100, 100)])
    >>> held = Entries(layout)
    >>> held.copy([0, 1], [torch.ones(3), torch.full((100, 100), 2.0)])
    >>> found = layout.norms([held.rows])[0]
    >>> [round(float(n) * s, 3) for n, s in zip(found, layout.scales, strict=True)]
    [1.732, 200.0]
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.counts = [count_of(tensor) for tensor in tensors]
        self.shapes = [
            (BLOCKS, WIDTH) if count < _whole(tensor) else _shape(tensor)
            for tensor, count in zip(tensors, self.counts, strict=True)
        ]
        self.plans = [
            (None if tensor.is_complex() else tensor.shape, stride_of(tensor.shape) if part else 0)
            for tensor, part in (
                (t, n < _whole(t)) for t, n in zip(tensors, self.counts, strict=True)
            )
        ]
        self.scales = [
            math.sqrt(_whole(tensor) / max(1, count))
            for tensor, count in zip(tensors, self.counts, strict=True)
        ]
        rows = [-(-count // WIDTH) for count in self.counts]
        self.starts = [sum(rows[:place]) for place in range(len(rows))]
        self.size = sum(rows)
        self.device = tensors[0].device if tensors else torch.device("cpu")
        # In single precision the square of a gradient of 1e-23, as deep networks have them, is 0.
        self.dtype = torch.float32 if self.device.type == "mps" else torch.float64
        self._owner = torch.repeat_interleave(torch.tensor(rows, dtype=torch.int64)).to(self.device)

    def norms(self, buffers: Sequence[Tensor]) -> Tensor:
        """Return (buffers, tensors) the norms of the entries read."""
        squares = torch.stack([torch.linalg.vector_norm(rows, dim=1) for rows in buffers]).square_()
        found = squares.new_zeros(len(buffers), len(self.counts))
        return found.index_add_(1, self._owner, squares).sqrt_()


def _whole(tensor: Tensor) -> int:
    return tensor.numel() * (2 if tensor.is_complex() else 1)


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return (*tensor.shape, 2) if tensor.is_complex() else tuple(tensor.shape)
