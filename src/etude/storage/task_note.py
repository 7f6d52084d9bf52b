"""The note in a run folder of which task it is for: a TaskRef, where the task has one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from etude import files
from etude.errors import StorageError
from etude.storage.layout import TASK
from etude.tasks.fingerprint import Parts
from etude.tasks.ref import TaskRef
from etude.tasks.trusted import remember


@dataclass(frozen=True)
class TaskNote:
    """The note in one folder, which may come from a stranger.

    Attributes:
        folder: Where it lies.
    """

    folder: Path

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / TASK

    @property
    def foreign(self) -> bool:
        """Whether a file of another program lies there: ours are whole, and read as a task."""
        try:
            self.read()
        except StorageError:
            return True
        return False

    def begin(self, ref: TaskRef | None, parts: Parts) -> None:
        """Write which task a new run is of; a note that was left there by another run goes.

        Args:
            ref: Of the task; None for one that was put together in a program.
            parts: What the task is made of.
        """
        if ref is None:
            self.path.unlink(missing_ok=True)
        else:
            self.write(ref.of_parts(parts))

    def write(self, ref: TaskRef) -> None:
        """Write which task the folder is for, and note on this machine that it was run from here.

        Whoever calls it holds the task in hand: its code has been run, because the user named it.
        """
        remember(ref)
        if self.foreign or self.read() != ref:  # a damaged one of a run that goes on is replaced
            files.make_folder(self.folder)
            files.write_json(self.path, ref.plain())

    def read(self) -> TaskRef | None:
        """Return what the note says; None without one. Nothing of it is run.

        Raises:
            StorageError: If it is damaged.
        """
        if not self.path.exists():
            return None
        return TaskRef.from_plain(
            files.read_json(self.path, "the task"), f"the task {str(self.path)!r}"
        )
