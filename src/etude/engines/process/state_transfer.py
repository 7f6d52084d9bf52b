"""Sends a run's state from one process to another: a table of contents, then raw tensors.

Nothing is unpickled. If the processes share memory, a state is written there once and read once;
otherwise it is sent as bytes.
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
from etude.storage.state_tree import flatten, shared, unflatten
from etude.training.run import Run

PackedState: TypeAlias = bytes | tuple[int, int]
"""A packed state, or its position in the shared memory: (first byte, number of bytes)."""


class _Packing:
    """The contents of a packed state, and the position of each tensor."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        tree, self.tensors = flatten(_with_words(state, torch.tensor), shared)
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
    """Convert the 625 words of Python's random state, which are slow to pack one by one."""
    if "random" not in state:
        return dict(state)
    version, words, gauss = state["random"]["python"]
    return {**state, "random": {**state["random"], "python": [version, change(words), gauss]}}


def _up(place: int) -> int:
    # Kernels process tensors at unaligned addresses in another order of operations, which would
    # change the bits of a run's results.
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
    """Return the state that was packed, in memory of its own."""
    return _read(bytearray(packed_state), 0)


def portable(run: Run) -> dict[str, Any]:
    """Return the state of a run for a process that sees other GPUs, or none.

    Of the random states of this process's GPUs it holds that of the run's own alone: a process
    that trains the run sees one GPU, as its first.
    """
    state = run.state_dict()
    if not state["random"]["accelerators"]:
        return state
    place = run.device.index or 0
    own = state["random"]["accelerators"][place : place + 1] if run.device.type == "cuda" else []
    return {**state, "random": {**state["random"], "accelerators": own}}


def take_back(run: Run, state: Mapping[str, Any]) -> None:
    """Load a state that another process has trained; the run keeps its own number of threads."""
    threads = run.threads
    run.load_state_dict(_at_home(run, state))
    run.limit_threads(threads)


def _at_home(run: Run, state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the state of a process that saw the run's GPU as its first, for this process."""
    theirs = state["random"]["accelerators"]
    if run.device.type != "cuda" or not theirs:
        return state
    place, own = run.device.index or 0, run.state.randomness.tree()["accelerators"]
    whole = [*own[:place], theirs[0], *own[place + 1 :]]
    return {**state, "random": {**state["random"], "accelerators": whole}}


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
    """Memory that two forked processes share to send states to each other.

    Its first byte says whether it contains states that have not been read yet.

    Args:
        size: Bytes of address space; pages that are never written use no memory. 0 for none.

    >>> transfer = StateTransfer(10_000)
    >>> packed = transfer.put([{"w": torch.ones(2)}, {"w": torch.zeros(2)}])
    >>> [state["w"].tolist() for state in transfer.get(packed)]
    [[1.0, 1.0], [0.0, 0.0]]
    """

    def __init__(self, size: int) -> None:
        self._memory = mmap.mmap(-1, size) if size else None

    @property
    def taken(self) -> bool:
        """Whether the shared memory contains states that have not been read."""
        return self._memory is not None and self._memory[0] != 0

    def put(self, states: Sequence[Mapping[str, Any]]) -> list[PackedState]:
        """Write the states to the shared memory, or pack them as bytes if they do not fit."""
        found: list[PackedState] = []
        free = None if self._memory is None or self.taken else ALIGNED
        for state in states:
            packing = _Packing(state)
            # Unread states are not overwritten: a worker that sends twice in a row, for example
            # shortly before its end, sends bytes the second time.
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
        """Yield the states, each in its own memory, and then free the shared memory."""
        for packed_state in packed_states:
            if isinstance(packed_state, bytes):
                yield unpack(packed_state)
            else:
                assert self._memory is not None
                yield _read(self._memory, packed_state[0])
        if self._memory is not None and any(not isinstance(p, bytes) for p in packed_states):
            self._memory[0] = 0


def room_for(runs: Sequence[Run], at_once: int) -> int:
    """Return a generous estimate of the shared memory for some of these runs, in bytes."""
    most = 0
    for run in runs:
        tensors = (*run.model.parameters(), *run.model.buffers())
        weights = sum(tensor.nbytes for tensor in tensors)
        series = 8 * (4 + 4 * len(run.observers)) * run.length
        most = max(most, 8 * weights + series + 2**20)
    return min(at_once * most, 2**36)
