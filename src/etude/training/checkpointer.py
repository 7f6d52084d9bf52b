"""Saves a run's checkpoint and record in its folder at regular intervals."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from etude.errors import StorageError
from etude.next_step import NextStepNote, SavedState
from etude.storage.run_folder import RunFolder
from etude.training.request import OnStep
from etude.training.run import Run
from etude.training.state import RunState

SECONDS = 300.0
"""The largest age of a checkpoint in seconds, for a run of any length."""


class Checkpointer:
    """Saves a run at regular intervals, and after an error.

    Args:
        run: The run to save.
        folder: Its run folder.
        every: The number of updates between two checkpoints.
        on_step: Called after every update, before the checkpoint.
    """

    def __init__(
        self, run: Run, folder: RunFolder, every: int, on_step: OnStep | None = None
    ) -> None:
        self.run = run
        self.folder = folder
        self.every = every
        self.on_step = on_step
        self._step, self._time = run.step, time.monotonic()

    def after_step(self, state: RunState, step: int) -> None:
        """Save if enough updates or enough time have passed."""
        if self.on_step is not None:
            self.on_step(state, step)
        if step - self._step >= self.every or time.monotonic() - self._time > SECONDS:
            self.save()

    def save(self) -> None:
        """Write the checkpoint and the record."""
        self.folder.save_state(self.run.step, self.run.state_dict())
        self.run.record().save(self.folder.path)
        self._step, self._time = self.run.step, time.monotonic()

    def saved(self, signal: str | None = None) -> SavedState:
        """Return what is saved, in which folder, and up to which update.

        Args:
            signal: The name of the signal that stopped the run, if one did.
        """
        ref, run = self.run.task.ref, self.run
        return SavedState(
            "train",
            self.folder.path,
            run.step,
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
            try:
                self.save()
            except (StorageError, OSError) as second:
                error.add_note(f"what was computed since the last checkpoint is lost: {second}")
            else:
                error.add_note(NextStepNote(f"Saved up to update {self.run.step}", self.saved()))
            raise
