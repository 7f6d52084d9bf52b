"""A run's state on its way from one process to another: raw tensors behind a table of contents.

Nothing is unpickled. Where the processes share memory, a state is written there once and read
once; elsewhere it travels as bytes.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from etude.memory_layout import ALIGNED
from etude.storage.state_tree import flatten, unflatten
from etude.training.run import Run

PackedState: TypeAlias = bytes | tuple[int, int]
"""A packed state, or where one lies in the shared memory: (first byte, bytes)."""


class _Packing:
    """The contents of a packed state, and where each tensor is to lie."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        tree, self.tensors = flatten(_with_words(state, torch.tensor), copy=False)
        table, place = [], 0
        self._places: list[int] = []
        for name, tensor in self.tensors.items():
            kind = str(tensor.dtype).removeprefix("torch.")
            table.append([name, kind, list(tensor.shape), place])
            self._places.append(place)
            place = _up(place + tensor.nbytes)
        self.text = json.dumps([tree, table]).encode()
        self.start = _up(8 + len(self.text))
        self.size = self.start + place

    def write(self, target: Any, offset: int = 0) -> None:
        """Write it into a buffer."""
        end = offset + 8 + len(self.text)
        target[offset : offset + 8] = len(self.text).to_bytes(8, "big")
        target[offset + 8 : end] = self.text
        for tensor, place in zip(self.tensors.values(), self._places, strict=True):
            if tensor.nbytes:
                view = _view(target, tensor.dtype, tensor.numel(), offset + self.start + place)
                view.view(tensor.shape).copy_(tensor)


def _with_words(state: Mapping[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """Change the form of the 625 words of Python's random state: one by one they take long."""
    if "random" not in state:
        return dict(state)
    version, words, gauss = state["random"]["python"]
    return {**state, "random": {**state["random"], "python": [version, change(words), gauss]}}


def _up(place: int) -> int:
    # Kernels read addresses that are not aligned in another order of operations: a run would have
    # other bits after its state went through here.
    return -(-place // ALIGNED) * ALIGNED


def _view(buffer: Any, dtype: torch.dtype, count: int, offset: int) -> Tensor:
    return torch.frombuffer(buffer, dtype=dtype, count=count, offset=offset)


def pack(state: Mapping[str, Any]) -> bytes:
    """Return a state as bytes.

    >>> unpack(pack({"step": 3, "w": torch.ones(2)}))["w"].tolist()
    [1.0, 1.0]
    """
    packing = _Packing(state)
    target = bytearray(packing.size)
    packing.write(target)
    return bytes(target)


def unpack(packed_state: bytes) -> dict[str, Any]:
    """Return the state that `pack` was given, in memory of its own."""
    return _read(bytearray(packed_state), 0)


def _read(source: Any, offset: int) -> dict[str, Any]:
    length = int.from_bytes(source[offset : offset + 8], "big")
    tree, table = json.loads(bytes(source[offset + 8 : offset + 8 + length]))
    start = offset + _up(8 + length)
    tensors = {}
    for name, kind, shape, place in table:
        dtype, count = getattr(torch, kind), math.prod(shape)
        empty = torch.empty(shape, dtype=dtype)
        tensors[name] = _view(source, dtype, count, start + place).view(shape) if count else empty
    state = unflatten(tree, tensors)
    assert isinstance(state, dict)
    return _with_words(state, Tensor.tolist)


class StateTransfer:
    """Memory that two forked processes share, to put states on for each other.

    Its first byte says whether something lies there that has not been read yet.

    Args:
        size: Bytes of address space; what is never written takes no memory. 0 for none.

    >>> transfer = StateTransfer(10_000)
    >>> packed = transfer.put([{"w": torch.ones(2)}, {"w": torch.zeros(2)}])
    >>> [state["w"].tolist() for state in transfer.get(packed)]
    [[1.0, 1.0], [0.0, 0.0]]
    """

    def __init__(self, size: int) -> None:
        self._memory = mmap.mmap(-1, size) if size else None

    @property
    def taken(self) -> bool:
        """Whether something lies there unread."""
        return self._memory is not None and self._memory[0] != 0

    def put(self, states: Sequence[Mapping[str, Any]]) -> list[PackedState]:
        """Put states down and return where; as bytes where there is no room."""
        found: list[PackedState] = []
        free = None if self._memory is None or self.taken else ALIGNED
        for state in states:
            packing = _Packing(state)
            # What has not been read yet is not overwritten: a worker that sends twice in a row, as
            # before its end, sends bytes the second time.
            if self._memory is None or free is None or free + packing.size > len(self._memory):
                target = bytearray(packing.size)
                packing.write(target)
                found.append(bytes(target))
                continue
            packing.write(self._memory, free)
            self._memory[0] = 1
            found.append((free, packing.size))
            free = _up(free + packing.size)
        return found

    def get(self, packed_states: Sequence[PackedState]) -> Iterator[dict[str, Any]]:
        """Yield the states, each in memory of its own; then the shared memory is free again."""
        for packed_state in packed_states:
            if isinstance(packed_state, bytes):
                yield unpack(packed_state)
            else:
                assert self._memory is not None
                yield _read(self._memory, packed_state[0])
        if self._memory is not None and any(not isinstance(p, bytes) for p in packed_states):
            self._memory[0] = 0


def room_for(runs: Sequence[Run], at_once: int) -> int:
    """Return the bytes that the memory for some of these runs should have: a generous guess."""
    most = 0
    for run in runs:
        tensors = (*run.model.parameters(), *run.model.buffers())
        weights = sum(tensor.nbytes for tensor in tensors)
        series = 8 * (4 + 4 * len(run.observers)) * run.length
        most = max(most, 8 * weights + series + 2**20)
    return min(at_once * most, 2**36)
