"""A record's two files: plain values as JSON, the series as safetensors.

They are read as they are; whether they make a record is for `etude.record` to say, which stands
below this package and hands it plain values.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from etude import files
from etude.storage.layout import RECORD, SERIES


def write_record(
    folder: Path, plain: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Write both files, each atomically, the series first.

    Raises:
        StorageError: If they cannot be written.
    """
    files.write_bytes(folder / SERIES, save(dict(arrays)))
    files.write_json(folder / RECORD, dict(plain))


def read_record(folder: Path) -> tuple[dict[str, Any], Path]:
    """Return the plain values, and where the series lie.

    Raises:
        StorageError: If a file is missing, damaged, or no ordinary file.
    """
    plain = files.read_table(folder / RECORD, "the record")
    return plain, files.regular(folder / SERIES, "the series")


def read_series(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a file of series; whatever it holds, in whatever shape."""
    arrays: dict[str, NDArray[Any]] = load_file(path)
    return arrays
