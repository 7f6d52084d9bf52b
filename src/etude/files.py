"""Atomic files: written to a temporary file in the same folder, flushed, then renamed.

Only this module opens the files of a run folder. They may be untrusted: only regular files of
bounded size are opened, and JSON is read strictly.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from etude.errors import StorageError, shown

LARGEST_TEXT = 2**28
"""The size in bytes of the largest text file that is read; Etude writes far smaller ones."""

FLUSHES = 16
"""How many files are flushed to disk at the same time."""


def make_folder(folder: Path) -> Path:
    """Create a writable folder, or raise before any work is lost.

    Raises:
        StorageError: If it cannot be created or written; the message says why.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = error.strerror or error
        if isinstance(error, (FileExistsError, NotADirectoryError)):
            file = next(one for one in (folder, *folder.parents) if one.exists())
            why = f"{str(file)!r} is a file"
        raise StorageError(
            f"cannot write to the folder {str(folder)!r}: {why}; choose another one"
        ) from error
    return folder


def check_inner_folder(path: Path, what: str) -> Path:
    """Return the path of a folder inside one of ours, if it is one or is not there yet.

    The folder around it may come from somebody else, and what is written or deleted in a link
    would be elsewhere.

    Args:
        path: The path; nothing need be there.
        what: A description of it, for error messages.

    Raises:
        StorageError: If it is a link, whose message says where it leads, or a file.
    """
    if path.is_symlink():
        raise StorageError(
            f"{what} {str(path)!r} is a symbolic link, to {shown(str(path.readlink()), 300)}, and "
            "files are written only inside the folder itself: put a folder in its place"
        )
    if path.exists() and not path.is_dir():
        raise StorageError(
            f"{what} {str(path)!r} is a file, and a folder of this name has to be written: move "
            "it away, or choose another folder"
        )
    return path


def refuse_folders(home: Path, names: Iterable[str]) -> None:
    """Raise if a folder stands where a file is to be written, before any work is lost.

    Args:
        home: The folder of the files.
        names: The names of the files.

    Raises:
        StorageError: If one of them is a folder.
    """
    for path in (home / name for name in names):
        if path.is_dir():
            raise StorageError(
                f"{str(path)!r} is a folder, and a file of this name has to be written: move it "
                "away, or choose another folder"
            )


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file, flush it to disk, and rename it to `path`.

    A reader of `path` sees the old content or the new, never a part of it. Its mode follows the
    user's umask, whichever library writes it.

    Raises:
        StorageError: If the disk is full or the folder cannot be written; `path` is then
            unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        temporary.touch()
        mode = stat.S_IMODE(temporary.stat().st_mode)
        write(temporary)
        # A library may have replaced it by a new file that only the owner can read.
        if stat.S_IMODE(temporary.stat().st_mode) != mode:
            temporary.chmod(mode)
        _sync_file(temporary)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # it must not hide the original error
            temporary.unlink(missing_ok=True)


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write several files, each atomically; the disk is waited for once, not once per file.

    File systems with a journal serve flushes that arrive together by one write of the journal.

    Raises:
        StorageError: If one cannot be written; some of the others may be there then.
    """
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in contents}
    path = next(iter(contents), Path())
    try:
        for path, content in contents.items():
            temporary[path].unlink(missing_ok=True)
            temporary[path].write_bytes(content)
        with ThreadPoolExecutor(FLUSHES) as flushes:
            list(flushes.map(_sync_file, temporary.values()))
            for path in contents:
                temporary[path].replace(path)
            list(flushes.map(_sync_folder, {path.parent for path in contents}))
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        for left in temporary.values():
            with contextlib.suppress(OSError):
                left.unlink(missing_ok=True)


def _not_written(path: Path, error: OSError) -> StorageError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return StorageError(
        f"cannot write {str(path)!r}: {error.strerror or error}; "
        f"{'free some space or ' if full else ''}choose another folder"
    )


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def is_temporary(path: Path) -> bool:
    """Return whether a file is one that `write_atomic` left behind because its process was killed.

    >>> is_temporary(Path("run/.recipe.toml.812.tmp")), is_temporary(Path("run/recipe.toml"))
    (True, False)
    """
    return path.name.startswith(".") and path.suffix == ".tmp"


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power failure, if the system supports it."""
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


def regular(path: Path, what: str, most: int | None = None) -> Path:
    """Return a path if it is an ordinary file, not a pipe or device, which may never end.

    Args:
        path: The path of the file.
        what: A description of its content, for error messages.
        most: The size in bytes of the largest file that is read; None for any.

    Raises:
        StorageError: If it is missing, not an ordinary file, or larger.
    """
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StorageError(f"cannot read {what} {shown(str(path), 300)}: {reason}") from error
    if not stat.S_ISREG(found.st_mode):
        raise StorageError(f"cannot read {what} {str(path)!r}: it is not an ordinary file")
    if most is not None and found.st_size > most:
        raise StorageError(
            f"cannot read {what} {str(path)!r}: it has {found.st_size:,} bytes, and at most "
            f"{most:,} are read"
        )
    return path


def read_text(path: Path, what: str, most: int = LARGEST_TEXT) -> str:
    """Read a text file, or raise an error that describes the file.

    Raises:
        StorageError: If it is missing, not readable as text, or larger than `most` bytes.
    """
    regular(path, what, most)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StorageError(f"cannot read {what} {str(path)!r}: {reason}") from error


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file, or raise an error that describes the file.

    Raises:
        StorageError: If it is missing, damaged, incomplete, or not strict JSON.
    """
    try:
        return parse_json(read_text(path, what))
    except ValueError as error:
        raise StorageError(f"{what} {str(path)!r} is damaged: {error}") from error


def read_table(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON file that contains a table.

    Raises:
        StorageError: As `read_json`, or if it holds anything else.
    """
    found = read_json(path, what)
    if not isinstance(found, dict):
        raise StorageError(
            f"{what} {str(path)!r} is damaged: it holds {_kind(found)} where a table should be"
        )
    return found


def parse_json(text: str) -> Any:
    """Read JSON strictly: no duplicate keys, no NaN, no number beyond float64, no deep nesting.

    Raises:
        ValueError: If it is not strict JSON.

    >>> parse_json('{"lr": 0.1}')
    {'lr': 0.1}
    >>> parse_json('{"lr": 0.1, "lr": 0.2}')
    Traceback (most recent call last):
    ValueError: the key 'lr' stands twice in a table
    """
    try:
        return _STRICT.decode(text)
    except RecursionError:
        raise _refused("it is nested too deep") from None


def _refused(reason: str) -> ValueError:
    return ValueError(reason)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _refused(f"the key {shown(twice)} stands twice in a table")
    return table


def _no_number(name: str) -> float:
    raise _refused(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number - number != 0:
        raise _refused(f"{shown(text)} is beyond the largest number of float64")
    return number


_STRICT = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_number, parse_float=_finite)


def _kind(value: object) -> str:
    """Return the type of a JSON value in words.

    >>> _kind([]), _kind(None), _kind(3)
    ('a list', 'null', 'a number')
    """
    if value is None:
        return "null"
    kinds = {list: "a list", dict: "a table", str: "text", bool: "a truth value"}
    return kinds.get(type(value), "a number")
