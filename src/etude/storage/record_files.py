"""Reads and writes a record's two files: plain values as JSON, the series as safetensors.

This package does not check the values: `etude.record` converts records to plain values, and checks
what was read.
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
    """Return the plain values, and the path of the series.

    Raises:
        StorageError: If a file is missing, damaged, or not a regular file.
    """
    plain = files.read_table(folder / RECORD, "the record")
    return plain, files.regular(folder / SERIES, "the series")


def read_series(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays in a file of series, without checking their names and shapes."""
    arrays: dict[str, NDArray[Any]] = load_file(path)
    return arrays
