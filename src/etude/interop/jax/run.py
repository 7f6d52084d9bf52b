"""Drives a pure step of JAX: the state of a paused run is the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etude.errors import TaskError, shown
from etude.tuning.loops.reports import RunReports


@dataclass(frozen=True)
class JaxStep:
    """What all rates share.

    Attributes:
        update: (state, batch, rate) -> (state, loss).
        valid: state -> validation loss.
        batch: The batch of an update.
        shape: The schedule's value at each update; None for 1.
    """

    update: Callable[..., Any]
    valid: Callable[[Any], Any]
    batch: Callable[[int], Any]
    shape: NDArray[np.float64] | None


class JaxDriver:
    """Drives a pure step at one rate.

    Args:
        step: What all rates share.
        state: The state before training.
        lr: The rate.
    """

    resumable = True

    def __init__(self, step: JaxStep, state: Any, lr: float) -> None:
        self._step, self._state, self._lr = step, state, lr
        self._done = 0
        self.value: Any = None

    def drive(self, reports: RunReports) -> None:
        """Make updates, and report where an evaluation is due."""
        if not self._done and not reports.take(0, self._valid):
            return
        since: list[Any] = []
        while self._done < reports.length:
            since.append(self._update())
            if not reports.is_due(self._done):
                continue
            training = float(np.mean([float(loss) for loss in since]))
            since = []
            if not reports.take(self._done, self._valid, training):
                return
        self.value = self._state
        reports.end()

    def _update(self) -> Any:
        """Make one update, and return its loss, which is not waited for."""
        t, shape = self._done, self._step.shape
        lr = self._lr if shape is None else self._lr * float(shape[t])
        with _deletions_told():
            found = self._step.update(self._state, self._step.batch(t), lr)
        if not isinstance(found, tuple) or len(found) != 2:
            raise TaskError(
                f"step(state, batch, lr) returned {shown(found)}: return the next state and the "
                "training loss, as (state, loss)"
            )
        self._state, loss = found
        self._done += 1
        return loss

    def _valid(self) -> Any:
        with _deletions_told():
            return np.asarray(self._step.valid(self._state), dtype=np.float64)

    def close(self) -> None:
        """Forget the state of a paused run."""
        self._state = None


@contextmanager
def _deletions_told() -> Iterator[None]:
    """Say what to change where a function was given an array that an earlier call has deleted.

    Raises:
        TaskError: If it was; JAX raises a RuntimeError.
    """
    try:
        yield
    except RuntimeError as error:
        if "deleted" not in str(error):
            raise
        raise TaskError(
            f"an array was donated (donate_argnums) and is used again: {error}. With jit=False, a "
            "step may donate its state alone, since every rate sees the same batches, and valid "
            "may donate nothing"
        ) from error
