"""Leaves the frozen parts of a model, those with multiplier 0, out of a run's gradients."""

from __future__ import annotations

from torch import Tensor

from etude.layerwise.frozen_tensors import FrozenTensors
from etude.training.state.state import RunState


class FrozenParts:
    """Keeps frozen parameters out of a run's gradients, norms and penalties.

    No gradient is computed for parameters that are frozen for the whole run, as with
    `requires_grad=False` and to the same bits. There are two exceptions: if parts take turns,
    because a part that is frozen as a whole still has its turn; and if everything is frozen.

    Args:
        state: The state of a run whose objective has been built.
    """

    def __init__(self, state: RunState) -> None:
        self._rates = state.rates
        self._frozen: list[Tensor] = []
        if self._rates is not None and not state.task.alternates:
            frozen = list(self._rates.frozen)
            trained = [p for p in state.model.parameters() if p.requires_grad]
            self._frozen = frozen if len(frozen) < len(trained) else []
        for parameter in self._frozen:
            parameter.requires_grad_(False)

    def update(self, step: int) -> None:
        """Determine what is frozen in an update, before its forward pass."""
        if self._rates is not None and self._rates.moves:
            self._rates.update_frozen(step)

    def drop_gradients(self) -> FrozenTensors | None:
        """Drop the gradients of what is frozen in this update, and return what is frozen."""
        if self._rates is None:
            return None
        self._rates.drop_frozen_gradients()
        return self._rates.frozen_now

    def release(self) -> None:
        """Restore the `requires_grad` of every parameter."""
        for parameter in self._frozen:
            parameter.requires_grad_(True)
