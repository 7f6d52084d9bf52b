"""Whether a run that goes on still has the task it began with: digests kept in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etude import files
from etude.errors import StorageError
from etude.next_step import AcceptChanges
from etude.storage.layout import FINGERPRINT
from etude.tasks.fingerprint import DATA, Parts, changed

SEED = " (data drawn at random needs a fixed seed, such as torch.manual_seed(0) before it)"


def keep(folder: Path, parts: Parts) -> None:
    """Write down what a run's task is made of."""
    files.write_json(folder / FINGERPRINT, {"parts": dict(parts), "accepted": []})


def check(folder: Path, parts: Parts, step: int, *, accept: bool) -> None:
    """Refuse to go on with another task than the run's, or note that it was accepted.

    A folder without digests, of an older Etude, cannot tell: they are kept from here on.

    Args:
        folder: The run folder.
        parts: Of the task that it is to go on with.
        step: Where the run stands.
        accept: Whether to go on with what has changed.

    Raises:
        StorageError: If a part is known to be another one, or the file is damaged.
    """
    path = folder / FINGERPRINT
    if not path.exists():
        keep(folder, parts)
        return
    table = files.read_table(path, "the file of digests")
    kept, accepted = read_parts(table.get("parts"), path), table.get("accepted", [])
    found = refuse_changed(folder, kept, parts, accept=accept)
    if found:
        notes = [*(accepted if isinstance(accepted, list) else []), {"step": step, "parts": found}]
        files.write_json(path, {"parts": dict(parts), "accepted": notes})


def refuse_changed(folder: Path, kept: Parts, now: Parts, *, accept: bool) -> list[str]:
    """Return the parts that are known to have changed, if that is accepted.

    Raises:
        StorageError: If it is not.
    """
    found = changed(kept, now)
    if found and not accept:
        raise StorageError(
            f"{str(folder)!r} was begun with another task: other "
            f"{' and '.join(map(_told, found))}. Put back what it was"
            f"{SEED if set(found) & set(DATA) else ''}, or begin anew in another folder",
            next_step=AcceptChanges(),
        )
    return found


def read_parts(value: Any, path: Path) -> Parts:
    """Return digests as they were read, if that is what they are.

    Raises:
        StorageError: If they are anything else.
    """
    if not isinstance(value, Mapping) or not all(
        one is None or isinstance(one, str) for one in value.values()
    ):
        raise StorageError(f"the digests in {str(path)!r} are damaged: they are no table of texts")
    return dict(value)


def _told(part: str) -> str:
    return {"train": "training data", "valid": "validation data"}.get(part, part)
