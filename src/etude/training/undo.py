"""What half an update leaves behind: random numbers drawn, and buffers moved on."""

from __future__ import annotations

import torch
from torch import nn

from etude.randomness import RandomState


class Undo:
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
        # Looked up once, read at every mark: walking the modules would cost more than copying.
        self._holders = [m._buffers for m in model.modules() if m._buffers]
        self._cuda = next((p.is_cuda for p in model.parameters()), False)
        self.mark()

    def mark(self) -> None:
        """Remember the state as it is now."""
        self._all = RandomState.capture() if self._draws else None
        self._torch = torch.get_rng_state()
        self._devices = torch.cuda.get_rng_state_all() if self._cuda else []
        self._buffers = [
            (buffer, buffer.clone())
            for holder in self._holders
            for buffer in holder.values()
            if buffer is not None
        ]

    def restore(self) -> None:
        """Put everything back."""
        if self._all is not None:
            self._all.restore()
        torch.set_rng_state(self._torch)
        if self._devices:
            torch.cuda.set_rng_state_all(self._devices)
        for buffer, value in self._buffers:
            buffer.copy_(value)
