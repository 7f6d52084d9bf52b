"""The note in a run folder that names its task: a TaskRef, if the task has one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from etude import files
from etude.errors import StorageError
from etude.storage.layout import TASK
from etude.tasks.references.ref import TaskRef
from etude.tasks.references.trusted import remember


@dataclass(frozen=True)
class TaskNote:
    """The note in a folder, which may be from an unknown source.

    Attributes:
        folder: The folder.
    """

    folder: Path

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / TASK

    @property
    def foreign(self) -> bool:
        """Whether the file is another program's: ours can always be read as a task."""
        try:
            self.read()
        except StorageError:
            return True
        return False

    def begin(self, ref: TaskRef | None) -> None:
        """Write the task of a new run; a note of an earlier run is deleted.

        Args:
            ref: The task's reference; None for a task that was built in a program.
        """
        if ref is None:
            self.path.unlink(missing_ok=True)
        else:
            self.write(ref)

    def write(self, ref: TaskRef) -> None:
        """Write the folder's task, and note on this machine that it was run from here.

        Call this only with a task that is loaded: its code was run because the user named it.
        """
        remember(ref)
        if self.foreign or self.read() != ref:  # replaces a damaged note of a resumed run
            files.make_folder(self.folder)
            files.write_json(self.path, ref.plain())

    def read(self) -> TaskRef | None:
        """Return the note; None if there is none. This runs no code of the task.

        Raises:
            StorageError: If it is damaged.
        """
        if not self.path.exists():
            return None
        return TaskRef.from_plain(
            files.read_json(self.path, "the task"), f"the task {str(self.path)!r}"
        )
