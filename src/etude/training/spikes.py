"""Keeps earlier states of a run, and goes back to one of them at a spike of the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from etude.errors import StorageError
from etude.optimizers.state import restore
from etude.recipe_spikes import Rewind
from etude.storage.model_weights import load_state, load_unsaved, unsaved_state
from etude.storage.state_tree import flatten, unflatten
from etude.training.state.state import RunState


@dataclass(frozen=True)
class KeptState:
    """Weights, buffers and optimizer state that a run can go back to.

    Attributes:
        update: The update before which they were kept, or to which they were last restored.
        model: The model's `state_dict`, copied.
        optimizer: The optimizer's `state_dict`, copied.
        unsaved: The model's buffers that its `state_dict` leaves out, copied.
    """

    update: int
    model: Any
    optimizer: Any
    unsaved: Any = field(default_factory=dict)


class Rewinder:
    """Keeps the states to which a run goes back at a spike.

    Args:
        policy: When, and how far; the rule stands there.

    Attributes:
        gone: How many updates the run has gone back at the update that comes next; 0 for none.
    """

    def __init__(self, policy: Rewind) -> None:
        self.policy = policy
        self.gone = 0
        self._kept: list[KeptState] = []

    def keep(self, state: RunState) -> None:
        """Keep the state before an update, if it is due."""
        step = state.step
        if step % self.policy.back or (self._kept and self._kept[-1].update >= step):
            return
        model, optimizer = state.model.state_dict(), state.optimizer.state_dict()
        saved = {"model": model, "optimizer": optimizer, "unsaved": unsaved_state(state.model)}
        self._kept = [*self._kept[-1:], KeptState(step, **_copied(saved))]

    def target(self, step: int, losses: Sequence[float], loss: float) -> KeptState | None:
        """Return the state to go back to at a loss, None for none.

        Args:
            step: The update.
            losses: The losses of the updates before it.
            loss: Its own loss.
        """
        old = [kept for kept in self._kept if step - kept.update >= self.policy.back]
        recent = [*losses[-self.policy.window :], loss]
        return old[-1] if old and self.policy.spikes(step, recent) else None

    def restore(self, state: RunState, kept: KeptState) -> int:
        """Go back to a kept state.

        Returns:
            The number of updates whose batches are still to be left out.
        """
        saved = _copied({**vars(kept)})
        load_state(state.model, saved["model"])
        load_unsaved(state.model, saved["unsaved"])
        restore(state.optimizer, saved["optimizer"])
        self.gone = state.step - kept.update
        self._kept = [replace(kept, update=state.step)]
        return max(0, kept.update + self.policy.skip - (state.step + 1))

    def tree(self) -> dict[str, Any]:
        """Return what is kept, for a checkpoint."""
        return {"gone": self.gone, "kept": [asdict(kept) for kept in self._kept]}

    def load(self, saved: Mapping[str, Any] | None) -> None:
        """Restore what `tree` returned; None keeps nothing.

        Raises:
            StorageError: If it is damaged.
        """
        saved = saved or {"gone": 0, "kept": []}
        try:
            self.gone = int(saved["gone"])
            self._kept = [KeptState(**_copied(kept)) for kept in saved["kept"]]
        except (KeyError, TypeError, ValueError) as error:
            raise StorageError(
                f"the checkpoint is damaged: its kept states: {type(error).__name__}: {error}"
            ) from error


def _copied(tree: Any) -> Any:
    """Return a copy with the same layout in memory, as a checkpoint would give it back."""
    return unflatten(*flatten(tree))
