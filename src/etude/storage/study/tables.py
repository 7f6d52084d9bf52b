"""Writes a study as one table: CSV, or parquet."""

from __future__ import annotations

import csv
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from etude import files
from etude.errors import MissingExtraError
from etude.storage.study.columns import ColumnKind, columns_of, rows_of
from etude.storage.study.study import PAGE, StoredStudy


def write_csv(study: StoredStudy, stream: TextIO) -> int:
    """Write one line for each trial, after a line with the names of the columns.

    Numbers are written so that they are read back exactly. A value that is missing is empty.
    Parameters are called 'parameter.NAME', further values 'value.NAME'.

    Args:
        study: The study.
        stream: Where to write, such as `sys.stdout`; a file is opened with `newline=""`.

    Returns:
        The number of trials.
    """
    columns = columns_of(study)
    writer = csv.DictWriter(stream, list(columns), lineterminator="\n")
    writer.writeheader()
    count = 0
    for row in rows_of(study, columns):
        writer.writerow(row)
        count += 1
    return count


def write_parquet(study: StoredStudy, path: Path) -> int:
    """Write the same table as a parquet file, atomically; columns have types.

    A study without any trial has its columns too.

    Args:
        study: The study.
        path: The file; it is replaced.

    Returns:
        The number of trials.

    Raises:
        MissingExtraError: If pyarrow is not installed.
        StorageError: If the file cannot be written.
    """
    arrow, parquet = _pyarrow()
    columns = columns_of(study)
    types = {
        ColumnKind.BOOL: arrow.bool_(),
        ColumnKind.INT: arrow.int64(),
        ColumnKind.FLOAT: arrow.float64(),
        ColumnKind.TEXT: arrow.string(),
    }
    schema = arrow.schema([(name, types[kind]) for name, kind in columns.items()])
    count = 0

    def write(temporary: Path) -> None:
        nonlocal count
        rows = rows_of(study, columns)
        with parquet.ParquetWriter(temporary, schema) as writer:
            while some := list(islice(rows, PAGE)):
                writer.write_table(arrow.Table.from_pylist(some, schema=schema))
                count += len(some)

    files.write_atomic(path, write)
    return count


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError(
            f"parquet needs pyarrow ({error}): pip install 'etude[parquet]'"
        ) from error
    return pyarrow, parquet
