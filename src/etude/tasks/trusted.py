"""Which task files of the user's own a run folder may name: those run from here before.

A run folder may come from somebody else, and a task file is code. That a user started a run with
a file is noted on this machine, outside the folder, with the digest that the file had.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from etude import files
from etude.errors import StorageError
from etude.tasks.ref import TaskRef
from etude.tasks.table import is_bundled

STATE = "ETUDE_STATE_DIR"
"""The environment variable that says where such notes are kept."""


def state_folder() -> Path:
    """Return where Etude keeps what belongs to this user on this machine.

    `$ETUDE_STATE_DIR`, else `$XDG_STATE_HOME/etude`, else `~/.local/state/etude`.

    Raises:
        StorageError: If the user has no home.
    """
    if own := os.environ.get(STATE):
        return Path(own)
    base = os.environ.get("XDG_STATE_HOME", "")
    try:
        return (Path(base) if Path(base).is_absolute() else Path.home() / ".local/state") / "etude"
    except RuntimeError as error:
        raise StorageError(f"this user has no home folder: set {STATE}") from error


def remember(ref: TaskRef) -> None:
    """Note that the user named this task: a folder may name it from now on.

    Where it cannot be noted, going on from a folder asks for the task again.
    """
    if is_bundled(ref) or not ref.digest:
        return
    with contextlib.suppress(StorageError):
        folder = files.make_folder(state_folder() / "trusted")
        files.write_json(folder / f"{ref.key}.json", ref.source.plain())


def is_trusted(ref: TaskRef) -> bool:
    """Return whether the user named this very task on this machine, its file as it is now.

    Args:
        ref: As a folder names it; its digest does not count, the file's own does.
    """
    try:
        now = TaskRef.of(ref.reference, ref.options)
        if not now.digest:
            return False
        path = state_folder() / "trusted" / f"{now.key}.json"
        kept = TaskRef.from_plain(files.read_json(path, "the note"), str(path))
    except (StorageError, OSError, ValueError):
        return False
    return kept.source == now
