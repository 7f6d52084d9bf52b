"""Stops a run whose validation loss no longer falls, and restores the best weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from etude.record import Evaluation
from etude.storage.model_weights import load_unsaved, load_weights, unsaved_state


class EarlyStopping:
    """Counts the evaluations since the best one.

    Args:
        patience: The number of evaluations without a lower loss after which to stop.

    Source: Prechelt 1998, "Early stopping - but when?"; Goodfellow et al. 2016, algorithm 7.1.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.best: Evaluation | None = None
        self.since = 0
        self._weights: dict[str, Tensor] = {}
        self._unsaved: dict[str, Tensor | None] = {}

    def update(self, evaluation: Evaluation, model: nn.Module) -> bool:
        """Record an evaluation and its weights; return whether to stop.

        A loss that is not finite is never the best.
        """
        if self.best is None or evaluation.loss < self.best.loss:
            self.best, self.since = evaluation, 0
            self._weights = {k: v.detach().clone() for k, v in model.state_dict().items()}
            self._unsaved = {
                k: None if v is None else v.detach().clone()
                for k, v in unsaved_state(model).items()
            }
        else:
            self.since += 1
        return self.since >= self.patience

    def restore(self, model: nn.Module) -> None:
        """Restore the best weights in the model."""
        load_weights(model, self._weights, same=True)
        kept = {k: None if v is None else v.clone() for k, v in self._unsaved.items()}
        load_unsaved(model, kept)

    def reason(self, step: int, length: int) -> str:
        """Return which weights were kept, for a run with `step` of `length` updates done."""
        assert self.best is not None
        kept = f"update {self.best.step} had the best validation loss, and its weights were kept"
        early = f"stopped early after update {step} of {length}: " if step < length else ""
        return early + kept

    def state(self) -> dict[str, Any]:
        """Return the state to save in a checkpoint."""
        best = None if self.best is None else asdict(self.best)
        return {
            "best": best,
            "since": self.since,
            "weights": self._weights,
            "unsaved": self._unsaved,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore a saved state."""
        best = state["best"]
        self.best = None if best is None else Evaluation.of(best)
        self.since, self._weights = state["since"], dict(state["weights"])
        self._unsaved = dict(state.get("unsaved", {}))
