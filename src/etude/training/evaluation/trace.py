"""What a forward pass leaves behind in a network, a loss, or the random state."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from etude.randomness import RandomState
from etude.training.evaluation.held_values import HeldValues, is_stateless
from etude.training.state.snapshot import Buffers


class Trace:
    """Tells whether forward passes have left a trace since it was made, and undoes it.

    A trace is a changed value (`HeldValues` says which are seen) or a random number drawn.

    Args:
        model: The network.
        loss: The loss.

    >>> trace = Trace(nn.Dropout(), None)
    >>> trace.is_left()
    False
    >>> _ = torch.rand(())
    >>> trace.is_left()
    True
    >>> trace.undo()
    >>> trace.is_left()
    False
    """

    def __init__(self, model: nn.Module, loss: Any) -> None:
        self._held, self._random = HeldValues(model, loss), RandomState.capture()
        looked_at = [module for module in model.modules() if not is_stateless(module)]
        self._attributes = [(vars(module), dict(vars(module))) for module in looked_at]
        self._buffers = Buffers(model) if looked_at else None

    def is_left(self) -> bool:
        """Return whether anything was changed, or drawn."""
        return self._held.changed() or not self._random.is_current()

    def undo(self) -> None:
        """Restore the random state, the network's buffers and which values its attributes have.

        A list, or a tensor that is no buffer, stays as it is if it was changed in place.
        """
        self._random.restore()
        for own, before in self._attributes:
            own.clear()
            own.update(before)
        if self._buffers is not None:
            with torch.no_grad():
                self._buffers.restore()
