"""The memory layout of tensors: their strides, shared memory and alignment.

Kernels read memory in stride order, and take another path if an address is not a multiple of the
vector length. Results therefore depend, in their last bits, on strides and alignment.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from etude.errors import StorageError

ALIGNED = 64
"""The alignment of torch's CPU memory in bytes: the length of the widest vector."""

SPARE = 4096
"""The size in bytes of unused memory that is always kept together with its tensor."""

PLAIN = frozenset(
    (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    )
)
"""The dtypes that every version of safetensors supports; others are saved as bytes."""


def reach(shape: Sequence[int], stride: Sequence[int]) -> int:
    """Return the number of elements from a tensor's first to its last, gaps included.

    >>> x = torch.zeros(4, 6)[:, ::2]
    >>> reach(x.shape, x.stride())
    23
    """
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))


def overlaps(tensor: Tensor) -> bool:
    """Return whether two elements of a tensor may share one memory location.

    >>> overlaps(torch.zeros(3).expand(2, 3)), overlaps(torch.zeros(2, 3).T)
    (True, False)
    """
    if tensor.is_contiguous() or not tensor.numel():
        return False
    free = 1
    steps = zip(tensor.stride(), tensor.shape, strict=True)
    for stride, size in sorted(step for step in steps if step[1] > 1):
        if stride < free:
            return True
        free += (size - 1) * stride
    return False


def span(tensor: Tensor) -> Tensor:
    """Return the memory from a tensor's first element to its last, as a one-dimensional tensor."""
    return tensor.as_strided((reach(tensor.shape, tensor.stride()),), (1,))


def view_in(
    storage: torch.UntypedStorage,
    dtype: torch.dtype,
    offset: int,
    shape: Sequence[int],
    stride: Sequence[int],
) -> Tensor:
    """Return the tensor that starts `offset` elements into a block of memory."""
    empty = torch.empty(0, dtype=dtype, device=storage.device)
    return empty.set_(storage, offset, tuple(shape), tuple(stride))


def moved(tensor: Tensor, device: torch.device, memo: dict[int, torch.UntypedStorage]) -> Tensor:
    """Return a tensor on another device, with the same strides and the same shared memory.

    Args:
        tensor: The tensor to move; if it is on the device already, it is returned unchanged.
        device: The target device.
        memo: Address -> memory that was moved before.
    """
    if tensor.device == device:
        return tensor
    storage = tensor.untyped_storage()
    if storage.data_ptr() not in memo:
        memo[storage.data_ptr()] = storage.to(device=device)
    place = int(tensor.storage_offset())
    return view_in(memo[storage.data_ptr()], tensor.dtype, place, tensor.shape, tensor.stride())


@dataclass(frozen=True)
class Place:
    """The memory location of one tensor, in bytes."""

    tensor: Tensor
    start: int
    end: int

    @classmethod
    def of(cls, tensor: Tensor) -> Place:
        """Return the location of a tensor."""
        start = tensor.data_ptr() if tensor.numel() else 0
        taken = reach(tensor.shape, tensor.stride()) * tensor.element_size()
        return cls(tensor, start, start + taken)

    @property
    def geometry(self) -> tuple[Any, ...]:
        """The key that is equal for two tensors which are the same view of the same memory."""
        return self.start, self.tensor.dtype, self.tensor.shape, self.tensor.stride()


@dataclass(frozen=True)
class Block:
    """A block of memory, with the tensors in it.

    Attributes:
        start: Its address.
        size: Its size in bytes.
        places: The locations of the tensors in it.
    """

    start: int
    size: int
    places: tuple[Place, ...]

    @property
    def lead(self) -> int:
        """The offset of its address from a multiple of `ALIGNED`, in bytes."""
        own = max(place.tensor.element_size() for place in self.places)
        return self.start % ALIGNED // own * own

    @cached_property
    def whole(self) -> bool:
        """Whether all its bytes must be saved, because tensors share some of them."""
        first = self.places[0]
        alike = all(place.geometry == first.geometry for place in self.places)
        return not alike or overlaps(first.tensor)

    def bytes(self) -> Tensor:
        """Return all its bytes."""
        storage = self.places[0].tensor.untyped_storage()
        return view_in(storage, torch.uint8, self.start - storage.data_ptr(), (self.size,), (1,))

    @property
    def content(self) -> Tensor:
        """The content that must be saved: all bytes, or the only tensor in it."""
        return self.bytes() if self.whole else self.places[0].tensor

    def layout(self, place: Place) -> dict[str, Any]:
        """Return the layout of a tensor in it that `content` lacks; empty for a default layout."""
        tensor = place.tensor
        found: dict[str, Any] = {}
        if self.whole:
            found["whole"] = True
        if self.whole or tensor.dtype not in PLAIN:
            found["dtype"] = str(tensor.dtype).removeprefix("torch.")
            found["shape"] = list(tensor.shape)
        if tensor.stride() != plain_stride(tensor.shape):
            found["stride"] = list(tensor.stride())
        if place.start != self.start:
            found["offset"] = place.start - self.start
        if self.lead:
            found["lead"] = self.lead
        if not self.whole and self.size != tensor.nbytes:
            found["size"] = self.size
        return found


def plain_stride(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of a new contiguous tensor.

    >>> plain_stride((2, 3, 0, 5))
    (15, 5, 5, 1)
    """
    steps = [1]
    for size in reversed(shape[1:]):
        steps.append(steps[-1] * max(1, size))
    return tuple(reversed(steps)) if len(shape) else ()


def blocks(places: Sequence[Place]) -> list[Block]:
    """Return the blocks of memory that contain some tensors.

    A block is one allocation of torch, so that tensors that were adjacent are adjacent again. If
    the tensors use less than half of an allocation, the block is only the used part.
    """
    found: dict[int, list[Place]] = {}
    empty = [Block(0, 0, (place,)) for place in places if not place.end]
    for place in (place for place in places if place.end):
        found.setdefault(place.tensor.untyped_storage().data_ptr(), []).append(place)
    return empty + [block for start, group in found.items() for block in _pieces(start, group)]


def _pieces(start: int, places: list[Place]) -> list[Block]:
    pieces: list[list[Place]] = []
    end = -1
    for place in sorted(places, key=lambda place: place.start):
        if place.start < end:
            pieces[-1].append(place)
        else:
            pieces.append([place])
        end = max(end, place.end)
    found = [
        Block(piece[0].start, max(p.end for p in piece) - piece[0].start, tuple(piece))
        for piece in pieces
    ]
    size = places[0].tensor.untyped_storage().nbytes()
    if size <= 2 * sum(block.size for block in found) + SPARE:
        return [Block(start, size, tuple(places))]
    return found


class Rebuilt:
    """Tensors that are rebuilt in new memory with their old layout, from saved blocks.

    Args:
        contents: Name -> the result of `Block.content`; each is read once, from any location.
    """

    def __init__(self, contents: Mapping[str, Tensor]) -> None:
        self._contents = contents
        self._memory: dict[str, torch.UntypedStorage] = {}

    def tensor(self, name: str, layout: Mapping[str, Any]) -> Tensor:
        """Return the tensor with a layout in the named block.

        Raises:
            StorageError: If the layout does not fit the block.
        """
        content = self._contents[name]
        whole = layout.get("whole") is True
        dtype = _dtype(layout["dtype"]) if "dtype" in layout else content.dtype
        shape = layout.get("shape", content.shape)
        stride = layout.get("stride", plain_stride(shape))
        lead, offset = layout.get("lead", 0), layout.get("offset", 0)
        size = content.nbytes if whole else layout.get("size", content.nbytes)
        if not all(type(n) is int and n >= 0 for n in (*shape, *stride, lead, offset, size)):
            raise StorageError(f"a tensor's layout is damaged: {_shown(layout)}")
        place, odd = divmod(lead + offset, dtype.itemsize)
        taken = reach(shape, stride) * dtype.itemsize
        if odd or lead >= ALIGNED or len(stride) != len(shape) or (taken and offset + taken > size):
            raise StorageError(f"a tensor's layout does not fit its memory: {_shown(layout)}")
        new = name not in self._memory
        if new:
            self._memory[name] = _memory(lead, size, content, whole=whole)
        found = view_in(self._memory[name], dtype, place, shape, stride)
        if new and not whole and found.numel():
            found.copy_(content if content.dtype == dtype else _numbers(content, dtype, shape))
        return found


def _memory(lead: int, size: int, content: Tensor, *, whole: bool) -> torch.UntypedStorage:
    # No tensor reads the gaps; zeros make the copies reproducible.
    make = torch.empty if size == content.nbytes else torch.zeros
    memory = make(lead + size, dtype=torch.uint8)
    if whole:
        memory[lead:].copy_(content)
    return memory.untyped_storage()


def _shown(value: Any) -> str:
    return reprlib.repr(dict(value) if isinstance(value, Mapping) else value)


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None) if isinstance(name, str) else None
    if not isinstance(found, torch.dtype):
        raise StorageError(f"a tensor's layout names an unknown dtype, {_shown(name)}")
    return found


def _numbers(content: Tensor, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    """Return numbers of a dtype that safetensors does not support, from their bytes."""
    return content.clone().view(dtype).view(tuple(shape))
