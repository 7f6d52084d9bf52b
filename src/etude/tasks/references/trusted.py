"""The user's own task files that a run folder may name: those that were run here before.

A run folder may come from somebody else, and a task file is code. When a user starts a run with a
task file, this module records the file and its digest on this machine, outside the run folder.
"""

from __future__ import annotations

import os
from pathlib import Path

from etude import files
from etude.errors import StorageError
from etude.tasks.references.ref import TaskRef
from etude.tasks.table import is_bundled

STATE = "ETUDE_STATE_DIR"
"""The environment variable that names the folder for these notes."""

_UNWRITTEN: dict[str, TaskRef] = {}
"""The tasks that the user named in this process, and whose notes could not be written."""


def state_folder() -> Path:
    """Return the folder in which Etude keeps files of this user on this machine.

    It is `$ETUDE_STATE_DIR`, else `$XDG_STATE_HOME/etude`, else `~/.local/state/etude`.

    Raises:
        StorageError: If the user has no home folder.
    """
    if own := os.environ.get(STATE):
        return Path(own)
    base = os.environ.get("XDG_STATE_HOME", "")
    try:
        return (Path(base) if Path(base).is_absolute() else Path.home() / ".local/state") / "etude"
    except RuntimeError as error:
        raise StorageError(f"this user has no home folder: set {STATE}") from error


def remember(ref: TaskRef) -> None:
    """Record that the user named this task, so that a run folder may name it from now on.

    If the note cannot be written, this process alone remembers, and resuming from a folder in
    another one asks for the task again.
    """
    if is_bundled(ref) or not ref.digest:
        return
    try:
        folder = files.make_folder(state_folder() / "trusted")
        files.write_json(folder / f"{ref.key}.json", ref.source.plain())
    except StorageError:
        _UNWRITTEN[ref.key] = ref.source


def why_unwritten() -> str:
    """Return why no task can be recorded on this machine; empty if one can."""
    try:
        files.make_folder(state_folder() / "trusted")
    except StorageError as error:
        return str(error)
    return ""


def is_trusted(ref: TaskRef) -> bool:
    """Return whether the user named this task on this machine, with its file as it is now.

    Args:
        ref: The task as a folder names it. The digest of the current file is compared, not the
            digest in `ref`.
    """
    try:
        now = TaskRef.of(ref.reference, ref.options)
        if not now.digest:
            return False
        kept = _UNWRITTEN.get(now.key)
        if kept is None:
            path = state_folder() / "trusted" / f"{now.key}.json"
            kept = TaskRef.from_plain(files.read_json(path, "the note"), str(path))
    except (StorageError, OSError, ValueError):
        return False
    return kept.source == now
