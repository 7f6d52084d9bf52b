"""Reads and writes a record's files: plain values and notes as JSON, the series as safetensors.

This package does not check the values: `etude.record` converts records to plain values, and checks
what was read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from etude import files
from etude.errors import StorageError
from etude.storage.layout import NOTES, RECORD, SERIES


def write_record(
    folder: Path,
    plain: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write the files, each atomically; without notes there is no file of notes.

    Raises:
        StorageError: If they cannot be written, or the notes hold what JSON cannot.
    """
    files.write_bytes(folder / SERIES, save(dict(arrays)))
    files.write_json(folder / RECORD, dict(plain))
    if not notes:
        (folder / NOTES).unlink(missing_ok=True)
        return
    try:
        files.write_json(folder / NOTES, dict(notes))
    except (TypeError, ValueError) as error:
        raise StorageError(
            f"the notes of the observers {', '.join(map(repr, notes))} cannot be written as JSON "
            f"({error}): return text, finite numbers, lists and mappings from note()"
        ) from error


def read_record(folder: Path) -> tuple[dict[str, Any], Path]:
    """Return the plain values, and the path of the series.

    Raises:
        StorageError: If a file is missing, damaged, or not a regular file.
    """
    plain = files.read_table(folder / RECORD, "the record")
    return plain, files.regular(folder / SERIES, "the series")


def read_plain(folder: Path) -> dict[str, Any] | None:
    """Return the plain values alone; None if there is no record.

    Raises:
        StorageError: If the file is damaged, or not a regular file.
    """
    path = folder / RECORD
    return files.read_table(path, "the record") if os.path.lexists(path) else None


def read_notes(folder: Path) -> dict[str, Any]:
    """Return what observers noted; nothing in a folder without notes.

    Raises:
        StorageError: If the file is damaged, or not a regular file.
    """
    path = folder / NOTES
    return files.read_table(path, "the notes") if path.exists() else {}


def read_series(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays in a file of series, without checking their names and shapes."""
    arrays: dict[str, NDArray[Any]] = load_file(path)
    return arrays
