"""Saves and restores the random state and the buffers, which half an update has changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from etude.memory_layout import overlaps, span
from etude.randomness import RandomState
from etude.torch_internals import foreach, own_buffers


class Buffers:
    """Saves a model's buffers, and restores them whether changed in place or replaced.

    Args:
        model: The model with the buffers.
    """

    def __init__(self, model: nn.Module) -> None:
        # Found once, for all marks: going through the modules would cost more than copying.
        self._holders = [own for own in map(own_buffers, model.modules()) if own]
        self._kept: list[tuple[Any, str, Any, tuple[Tensor, Tensor] | None]] | None = None
        self._alike: list[tuple[list[Tensor], list[Tensor]]] = []
        self.mark()

    def mark(self) -> None:
        """Save their current values."""
        if self._are_as_before():  # copied together: on a GPU, each copy takes time to begin
            for copies, memories in self._alike:
                foreach.copy_(copies, memories)
            return
        self._kept = [
            (holder, name, buffer, None if buffer is None else _copied(buffer))
            for holder in self._holders
            for name, buffer in holder.items()
        ]
        alike: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
        for _, _, _, copy in self._kept:
            if copy is not None:
                memory, values = copy
                copies, memories = alike.setdefault((values.device, values.dtype), ([], []))
                copies.append(values)
                memories.append(_written(memory))
        self._alike = list(alike.values())

    def _are_as_before(self) -> bool:
        """Return whether each buffer is the tensor that was saved, and where it was."""
        now = [(own, name, buffer) for own in self._holders for name, buffer in own.items()]
        return (
            self._kept is not None
            and len(now) == len(self._kept)
            and all(
                own is holder and name == before and buffer is kept and _is_where(buffer, copy)
                for (own, name, buffer), (holder, before, kept, copy) in zip(
                    now, self._kept, strict=True
                )
            )
        )

    def restore(self) -> None:
        """Restore everything."""
        for holder, name, buffer, copy in self._kept or ():
            if buffer is not None and copy is not None:
                memory, values = copy
                if not _lies_as(buffer, memory):
                    buffer.data = memory
                _written(memory).copy_(values)
            holder[name] = buffer


def _copied(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Return the memory of a tensor, and a copy of its contents."""
    memory = tensor.detach()
    return memory, _written(memory).clone()


def _written(memory: Tensor) -> Tensor:
    """Return the tensor to write to; elements that share memory cannot be written separately."""
    return memory if memory.is_contiguous() or not overlaps(memory) else span(memory)


def _is_where(buffer: Tensor | None, copy: tuple[Tensor, Tensor] | None) -> bool:
    if buffer is None or copy is None:
        return True
    plain = type(buffer) is Tensor and buffer.layout is torch.strided
    return plain and _lies_as(buffer, copy[0])


def _lies_as(one: Tensor, other: Tensor) -> bool:
    return (
        one.data_ptr() == other.data_ptr()
        and one.shape == other.shape
        and one.stride() == other.stride()
    )


class Snapshot:
    """Saves what a forward pass changes besides gradients, and restores it.

    An error in the middle of an update does not change the weights or the optimizer, but dropout
    has drawn its numbers and batch normalisation has counted the batch. When training continues,
    the same batch comes again, and the state must be the same as before.

    Args:
        model: The model, whose buffers are saved.
        draws: Whether the data also uses Python's and NumPy's random generators.
    """

    def __init__(self, model: nn.Module, draws: bool) -> None:
        self._draws = draws
        self._cuda = next((p.is_cuda for p in model.parameters()), False)
        self._buffers = Buffers(model)
        self.mark()

    def mark(self) -> None:
        """Save the current state."""
        self._all = RandomState.capture() if self._draws else None
        self._torch = torch.get_rng_state()
        self._devices = torch.cuda.get_rng_state_all() if self._cuda else []
        self._buffers.mark()

    def restore_buffers(self) -> None:
        """Restore the buffers alone: the random state goes on."""
        self._buffers.restore()

    def restore(self) -> None:
        """Restore everything."""
        if self._all is not None:
            self._all.restore()
        torch.set_rng_state(self._torch)
        if self._devices:
            torch.cuda.set_rng_state_all(self._devices)
        self._buffers.restore()


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Restore the mode, training or evaluation, of every module after the block."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Restore a model's buffers after the block, such as a state carried from batch to batch."""
    buffers = Buffers(model)
    try:
        yield
    finally:
        with torch.no_grad():
            buffers.restore()


@contextmanager
def weights_kept(model: nn.Module, parameters: Iterable[Tensor]) -> Iterator[None]:
    """Leave some parameters of a model, and its buffers, as they were before the block."""
    kept = [(p, p.detach().clone()) for p in parameters]
    with buffers_kept(model):
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in kept:
                    parameter.copy_(value)
