"""What half an update leaves behind: random numbers drawn, and buffers moved on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from etude.memory_layout import overlaps, span
from etude.randomness import RandomState
from etude.torch_internals import own_buffers


class Buffers:
    """A model's buffers at one moment, in place or set anew since.

    Args:
        model: Whose buffers are kept.
    """

    def __init__(self, model: nn.Module) -> None:
        # Looked up once, read at every mark: walking the modules would cost more than copying.
        self._holders = [own for own in map(own_buffers, model.modules()) if own]
        self.mark()

    def mark(self) -> None:
        """Remember them as they are now."""
        self._kept = [
            (holder, name, buffer, None if buffer is None else _copied(buffer))
            for holder in self._holders
            for name, buffer in holder.items()
        ]

    def restore(self) -> None:
        """Put everything back."""
        for holder, name, buffer, copy in self._kept:
            if buffer is not None and copy is not None:
                memory, values = copy
                if not _lies_as(buffer, memory):
                    buffer.data = memory
                _written(memory).copy_(values)
            holder[name] = buffer


def _copied(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Return the memory of a tensor, and a copy of what is in it."""
    memory = tensor.detach()
    return memory, _written(memory).clone()


def _written(memory: Tensor) -> Tensor:
    """Return what to write to: of elements that share a place, one cannot be written alone."""
    return memory if memory.is_contiguous() or not overlaps(memory) else span(memory)


def _lies_as(one: Tensor, other: Tensor) -> bool:
    return (
        one.data_ptr() == other.data_ptr()
        and one.shape == other.shape
        and one.stride() == other.stride()
    )


class Snapshot:
    """Remembers what a forward pass changes besides gradients, and puts it back.

    An error in the middle of an update leaves weights and optimizer alone, but dropout has drawn
    its numbers and batch normalisation has counted the batch. Whoever goes on meets that batch
    again, and must meet it in the same state.

    Args:
        model: Whose buffers are kept.
        draws: Whether the data draws from Python's and NumPy's generators too.
    """

    def __init__(self, model: nn.Module, draws: bool) -> None:
        self._draws = draws
        self._cuda = next((p.is_cuda for p in model.parameters()), False)
        self._buffers = Buffers(model)
        self.mark()

    def mark(self) -> None:
        """Remember the state as it is now."""
        self._all = RandomState.capture() if self._draws else None
        self._torch = torch.get_rng_state()
        self._devices = torch.cuda.get_rng_state_all() if self._cuda else []
        self._buffers.mark()

    def restore(self) -> None:
        """Put everything back."""
        if self._all is not None:
            self._all.restore()
        torch.set_rng_state(self._torch)
        if self._devices:
            torch.cuda.set_rng_state_all(self._devices)
        self._buffers.restore()


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Leave a model's buffers as they were: a state that is carried on is not the block's."""
    buffers = Buffers(model)
    try:
        yield
    finally:
        with torch.no_grad():
            buffers.restore()
