"""What stands still in a run, its multiplier of the rate being 0: it has no say."""

from __future__ import annotations

from torch import Tensor

from etude.layerwise.rest import Rest
from etude.training.state import RunState


class FrozenParts:
    """Keeps what stands still out of a run's gradients, norms and penalties.

    No gradient is computed for what never moves, as with `requires_grad=False` and to the same
    bits; unless parts take turns, for a part that stands still as a whole still has its turn, or
    unless nothing at all moves.

    Args:
        state: Of a run whose objective has been built.
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

    def look(self, step: int) -> None:
        """Note what stands still in an update, before its forward pass."""
        if self._rates is not None and self._rates.moves:
            self._rates.look(step)

    def silence(self) -> Rest | None:
        """Drop the gradient of what stands still, and return what does."""
        if self._rates is None:
            return None
        self._rates.silence()
        return self._rates.rest

    def release(self) -> None:
        """Give the model back with every `requires_grad` as it came."""
        for parameter in self._frozen:
            parameter.requires_grad_(True)
