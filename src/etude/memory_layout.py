"""How tensors lie in memory: their strides, what they share, and where they begin.

Kernels add in the order in which numbers lie, and take another path where an address is no
multiple of a vector's length: a tensor with the same values in another place gives other bits.
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
"""Bytes to a multiple of which torch's CPU memory begins: the length of the widest vector."""

SPARE = 4096
"""Bytes of unused memory that are always kept along with a tensor that lies in it."""

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
"""What every version of safetensors can hold; any other kind of number is kept as its bytes."""


def reach(shape: Sequence[int], stride: Sequence[int]) -> int:
    """Return how many elements lie from a tensor's first to its last, gaps included.

    >>> x = torch.zeros(4, 6)[:, ::2]
    >>> reach(x.shape, x.stride())
    23
    """
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))


def overlaps(tensor: Tensor) -> bool:
    """Say whether two elements of a tensor may share one place in memory.

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
    """Return all the memory between a tensor's first element and its last, as one row."""
    return tensor.as_strided((reach(tensor.shape, tensor.stride()),), (1,))


def view_in(
    storage: torch.UntypedStorage,
    dtype: torch.dtype,
    offset: int,
    shape: Sequence[int],
    stride: Sequence[int],
) -> Tensor:
    """Return the tensor that lies `offset` elements into a piece of memory."""
    empty = torch.empty(0, dtype=dtype, device=storage.device)
    return empty.set_(storage, offset, tuple(shape), tuple(stride))


def moved(tensor: Tensor, device: torch.device, memo: dict[int, torch.UntypedStorage]) -> Tensor:
    """Return a tensor on another device, with its strides and whatever it shares memory with.

    Args:
        tensor: What to move; one that is there already is returned as it is.
        device: Where to.
        memo: The memory that was moved before, by where it lay.
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
    """Where one tensor lies, in bytes."""

    tensor: Tensor
    start: int
    end: int

    @classmethod
    def of(cls, tensor: Tensor) -> Place:
        """Look where a tensor lies."""
        start = tensor.data_ptr() if tensor.numel() else 0
        taken = reach(tensor.shape, tensor.stride()) * tensor.element_size()
        return cls(tensor, start, start + taken)

    @property
    def geometry(self) -> tuple[Any, ...]:
        """What two tensors have in common that are one and the same memory."""
        return self.start, self.tensor.dtype, self.tensor.shape, self.tensor.stride()


@dataclass(frozen=True)
class Block:
    """A piece of memory, with the tensors that lie in it.

    Attributes:
        start: Its address.
        size: Its bytes.
        places: The tensors' own.
    """

    start: int
    size: int
    places: tuple[Place, ...]

    @property
    def lead(self) -> int:
        """How many bytes beyond a multiple of `ALIGNED` it begins."""
        own = max(place.tensor.element_size() for place in self.places)
        return self.start % ALIGNED // own * own

    @cached_property
    def whole(self) -> bool:
        """Say whether all of its bytes have to be kept, since tensors share some of them."""
        first = self.places[0]
        alike = all(place.geometry == first.geometry for place in self.places)
        return not alike or overlaps(first.tensor)

    def bytes(self) -> Tensor:
        """Return all that lies in it."""
        storage = self.places[0].tensor.untyped_storage()
        return view_in(storage, torch.uint8, self.start - storage.data_ptr(), (self.size,), (1,))

    @property
    def content(self) -> Tensor:
        """What has to be kept of it: all bytes, or the one tensor in it."""
        return self.bytes() if self.whole else self.places[0].tensor

    def layout(self, place: Place) -> dict[str, Any]:
        """Return what is to be known of a tensor in it besides `content`; empty if plain."""
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
    """Return the strides of a new tensor.

    >>> plain_stride((2, 3, 0, 5))
    (15, 5, 5, 1)
    """
    steps = [1]
    for size in reversed(shape[1:]):
        steps.append(steps[-1] * max(1, size))
    return tuple(reversed(steps)) if len(shape) else ()


def blocks(places: Sequence[Place]) -> list[Block]:
    """Return the pieces of memory that some tensors lie in, each whole.

    A piece is what torch allocated at once, so that what lay together does again; but where
    tensors take up less than half of it, it is only what they take up.
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
    """Tensors laid out in new memory as they were, from what was kept of their blocks.

    Args:
        contents: What `Block.content` returned, by name; read once, wherever it lies.
    """

    def __init__(self, contents: Mapping[str, Tensor]) -> None:
        self._contents = contents
        self._memory: dict[str, torch.UntypedStorage] = {}

    def tensor(self, name: str, layout: Mapping[str, Any]) -> Tensor:
        """Return the tensor of a layout in the block of a name.

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
    # Nobody sees what lies in a gap; zeros make a copy of it the same every time.
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
    """Return the numbers of a kind that safetensors does not have, from their bytes."""
    return content.clone().view(dtype).view(tuple(shape))
