"""Files that are whole or absent: written beside their place, flushed, then renamed."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from etude.errors import StorageError


def make_folder(folder: Path) -> Path:
    """Create a folder that can be written, or raise before any work is done in vain.

    Raises:
        StorageError: If it cannot be created or written; the message says why.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StorageError(
            f"cannot write to the folder {str(folder)!r}: {error.strerror or error}; "
            "choose another one"
        ) from error
    return folder


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file, flush it to disk, and rename it to `path`.

    Whoever reads `path` sees the old content or the new, never a part of it.

    Raises:
        StorageError: If the disk is full or the folder cannot be written; `path` is then as it
            was before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # Made here, so that its mode is the user's own, whatever library fills it.
        temporary.touch()
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise StorageError(
            f"cannot write {str(path)!r}: {error.strerror or error}; free some space or choose "
            "another folder"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # it must not hide the error on its way
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a binary file atomically."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    write_atomic(path, write)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically; not-a-number and infinities are refused, as JSON has none."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_text(path: Path, what: str) -> str:
    """Read a text file, or raise an error that says what was looked for.

    Raises:
        StorageError: If it is missing or not readable as text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StorageError(f"cannot read {what} {str(path)!r}: {reason}") from error


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file, or raise an error that says what was looked for.

    Raises:
        StorageError: If it is missing, damaged or half-written.
    """
    try:
        return json.loads(read_text(path, what))
    except ValueError as error:
        raise StorageError(f"{what} {str(path)!r} is damaged: {error}") from error
