"""Checks that a resumed run still has its first task, by digests in its folder."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etude import files
from etude.errors import StorageError
from etude.next_step import AcceptChanges
from etude.storage.layout import FINGERPRINT
from etude.tasks.references.fingerprint import DATA, Parts, changed

SEED = " (data drawn at random needs a fixed seed, such as torch.manual_seed(0) before it)"


def keep(folder: Path, parts: Parts) -> None:
    """Write the digests of a run's task."""
    files.write_json(folder / FINGERPRINT, {"parts": dict(parts), "accepted": []})


def check(folder: Path, parts: Parts, step: int, *, accept: bool) -> None:
    """Raise if the task is not the run's, or note that the change was accepted.

    A folder without digests may be of an older Etude: that is warned of, and they are written now.

    Args:
        folder: The run folder.
        parts: The digests of the task to continue with.
        step: The number of updates done.
        accept: Whether to accept changes.

    Raises:
        StorageError: If a part is known to have changed, or the file is damaged.
    """
    path = folder / FINGERPRINT
    if not path.exists():
        warn_of_none(path)
        keep(folder, parts)
        return
    table = files.read_table(path, "the file of digests")
    kept, accepted = read_parts(table.get("parts"), path), table.get("accepted", [])
    found = refuse_changed(folder, kept, parts, accept=accept)
    if found:
        notes = [*(accepted if isinstance(accepted, list) else []), {"step": step, "parts": found}]
        files.write_json(path, {"parts": dict(parts), "accepted": notes})


def warn_of_none(path: Path) -> None:
    """Warn that the digests of a run's task are not there.

    Args:
        path: The file that should hold them.
    """
    warnings.warn(
        f"{str(path)!r} holds no digests of the task, as in folders of early versions of Etude: "
        "whether data, model and loss are still those of the run cannot be told",
        stacklevel=3,
    )


def refuse_changed(folder: Path, kept: Parts, now: Parts, *, accept: bool) -> list[str]:
    """Return the parts that are known to have changed, if changes are accepted.

    Raises:
        StorageError: If they are not.
    """
    found = changed(kept, now)
    if found and not accept:
        raise StorageError(
            f"{str(folder)!r} was started with another task: other "
            f"{' and '.join(map(_told, found))}. Restore what it was"
            f"{SEED if set(found) & set(DATA) else ''}, or start a new run in another folder",
            next_step=AcceptChanges(),
        )
    return found


def read_parts(value: Any, path: Path) -> Parts:
    """Check digests that were read, and return them.

    Raises:
        StorageError: If they are not digests.
    """
    if not isinstance(value, Mapping) or not all(
        one is None or isinstance(one, str) for one in value.values()
    ):
        raise StorageError(f"the digests in {str(path)!r} are damaged: not a table of texts")
    return dict(value)


def _told(part: str) -> str:
    return {"train": "training data", "valid": "validation data"}.get(part, part)
