"""Columns of numbers from tables of pandas and polars, neither of which is loaded here."""

from __future__ import annotations

from typing import Any

import numpy as np

from etude.errors import BadTypeError, shorten

MODULES = ("pandas", "polars")
"""The libraries whose tables and columns are read."""


def is_table(value: object) -> bool:
    """Return whether a value is a frame or a series of pandas or polars."""
    home = type(value).__module__.partition(".")[0]
    return home in MODULES and hasattr(value, "to_numpy")


def numbers_of(table: Any) -> np.ndarray[Any, Any]:
    """Return the numbers of a frame (rows × columns) or of a series.

    Columns of several types of numbers become floating-point numbers; missing numbers become NaN.

    Raises:
        BadTypeError: If a column holds anything else; the message names the column.
    """
    named = hasattr(table, "columns")
    columns = [(str(name), table[name]) for name in table.columns] if named else [("", table)]
    arrays = [_column(name, column) for name, column in columns]
    if not named:
        return arrays[0]
    if not arrays:
        return np.zeros((len(table), 0), dtype=np.float32)
    return np.stack(arrays, axis=1)


def _column(name: str, column: Any) -> np.ndarray[Any, Any]:
    found = np.array(column.to_numpy())  # a copy: newer versions of pandas lend theirs read-only
    if found.dtype.kind == "O":  # numbers with a type of their own for what is missing
        try:
            found = np.array([np.nan if _missing(x) else x for x in found])
        except (TypeError, ValueError):
            found = np.asarray(column.to_numpy())
    if found.dtype.kind not in "biufc":
        what = f"column {shorten(name, 40)!r}" if name else "the series"
        raise BadTypeError(
            f"{what} has the dtype {column.dtype}, and training needs numbers: leave it out, or "
            "turn categories into numbers, with `.astype('category').cat.codes` in pandas"
        )
    return found


def _missing(value: object) -> bool:
    return value is None or type(value).__name__ in ("NAType", "NaTType")
