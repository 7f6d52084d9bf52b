"""Saves a run's checkpoint and record in its folder at regular intervals."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from etude.errors import StorageError
from etude.next_step import NextStepNote, SavedState
from etude.record import Record
from etude.storage.run_folder import RunFolder
from etude.training.request import OnStep
from etude.training.run import Run
from etude.training.state.state import RunState

SECONDS = 300.0
"""The largest age of a checkpoint in seconds, for a run of any length."""


class Checkpointer:
    """Saves a run at regular intervals, and after an error.

    Args:
        run: The run to save.
        folder: Its run folder.
        every: The number of updates between two checkpoints.
        on_step: Called after every update, before the checkpoint.

    Of several processes each has a checkpointer, and calls the same methods; the main one writes.
    """

    def __init__(
        self, run: Run, folder: RunFolder, every: int, on_step: OnStep | None = None
    ) -> None:
        self.run = run
        self.folder = folder
        self.every = every
        self.on_step = on_step
        self._step, self._time = run.step, time.monotonic()
        self._world = run.state.world
        self._late = self._stopped = False

    @property
    def stopped(self) -> bool:
        """Whether any process was asked to stop."""
        return self._stopped

    def stops(self, asked: Callable[[], bool]) -> bool:
        """Return whether any process was asked to stop; called before every update."""
        if self._world.size == 1:
            self._stopped = asked()
        else:
            late = self._world.is_main and self._is_old()
            self._stopped, self._late = self._world.any(asked(), late)
        return self._stopped

    def _is_old(self) -> bool:
        return time.monotonic() - self._time > SECONDS

    def after_step(self, state: RunState, step: int) -> None:
        """Save if enough updates or enough time have passed."""
        if self.on_step is not None:
            self.on_step(state, step)
        late = self._is_old() if self._world.size == 1 else self._late
        if step - self._step >= self.every or late:
            self.save()

    def save(self) -> None:
        """Write the checkpoint and the record."""
        state = self.run.checkpoint()
        record = self.run.record()
        self._world.from_main(lambda: self._write(state, record))
        self._step, self._time = self.run.step, time.monotonic()

    def _write(self, state: dict[str, Any], record: Record) -> None:
        self.folder.save_state(self.run.step, state)
        record.save(self.folder.path)

    def saved(self, signal: str | None = None) -> SavedState:
        """Return what is saved, in which folder, and up to which update.

        Args:
            signal: The name of the signal that stopped the run, if one did.
        """
        ref, run = self.run.task.ref, self.run
        return SavedState(
            "train",
            self.folder.path,
            self._step if self._world.size > 1 else run.step,
            run.length,
            signal,
            reference=None if ref is None else ref.reference,
            options={} if ref is None else ref.options,
        )

    @contextmanager
    def rescue(self) -> Iterator[None]:
        """Save the run if the block fails, and raise the error again with a note."""
        try:
            yield
        except BaseException as error:
            self.run.note_failure(error)
            if self._world.size > 1:  # another process may not be there to save its part
                error.add_note(NextStepNote(f"Saved up to update {self._step}", self.saved()))
                raise
            try:
                self.save()
            except (StorageError, OSError) as second:
                error.add_note(f"what was computed since the last checkpoint is lost: {second}")
            else:
                error.add_note(NextStepNote(f"Saved up to update {self.run.step}", self.saved()))
            raise
