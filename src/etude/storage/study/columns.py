"""A study as a flat table: one column for each parameter, with the kind of its values."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from enum import StrEnum
from typing import Any

from etude.storage.study.study import StoredStudy
from etude.storage.study.values import StoredTrial

Scalar = str | int | float | bool | None


class ColumnKind(StrEnum):
    """What the values of a column are; TEXT where they are of several kinds."""

    BOOL = "bool"
    INT = "int"
    FLOAT = "float"
    TEXT = "text"


RESULTS: Mapping[str, ColumnKind] = {
    "state": ColumnKind.TEXT,
    "loss": ColumnKind.FLOAT,
    "metric": ColumnKind.FLOAT,
    "diverged": ColumnKind.BOOL,
    "seconds": ColumnKind.FLOAT,
    "attempts": ColumnKind.INT,
    "lost": ColumnKind.INT,
    "worker": ColumnKind.TEXT,
    "error": ColumnKind.TEXT,
    "place": ColumnKind.TEXT,
    "finished": ColumnKind.FLOAT,
    "record": ColumnKind.TEXT,
    "weights": ColumnKind.TEXT,
}
"""The columns that every trial has, besides its number."""

PARAMETER, VALUE = "parameter.", "value."
"""How the columns of parameters and of further values begin."""


def columns_of(study: StoredStudy) -> dict[str, ColumnKind]:
    """Return the columns of a study's table, and what their values are. It reads all trials.

    In order: the number, the parameters, the result, further values.
    """
    parameters: dict[str, ColumnKind] = {}
    more: dict[str, ColumnKind] = {}
    for trial in study.trials():
        for name, value in flat(trial.parameters).items():
            _note(parameters, PARAMETER + name, value)
        for name in trial.values:
            more[VALUE + name] = ColumnKind.FLOAT
    return {"number": ColumnKind.INT, **parameters, **RESULTS, **more}


def rows_of(study: StoredStudy, columns: Mapping[str, ColumnKind]) -> Iterator[dict[str, Scalar]]:
    """Return the rows of a study's table, one for each trial, in order.

    Args:
        study: The study.
        columns: Its columns; a column that a trial has no value for is None.
    """
    own = {field.name for field in fields(StoredTrial)}
    for trial in study.trials():
        row: dict[str, Scalar] = {name: getattr(trial, name) for name in columns if name in own}
        row.update((PARAMETER + name, value) for name, value in flat(trial.parameters).items())
        row.update((VALUE + name, value) for name, value in trial.values.items())
        yield {name: _cell(row.get(name), kind) for name, kind in columns.items()}


def flat(table: Mapping[str, Any], before: str = "") -> dict[str, Scalar]:
    """Return a table without tables in it: their names are joined by dots, lists become JSON.

    >>> flat({"lr": 0.1, "task": {"name": "digits", "sizes": [1, 2]}, "options": {}})
    {'lr': 0.1, 'task.name': 'digits', 'task.sizes': '[1,2]', 'options': '{}'}
    """
    found: dict[str, Scalar] = {}
    for name, value in table.items():
        if isinstance(value, Mapping) and value:
            found.update(flat(value, f"{before}{name}."))
        elif isinstance(value, (list, tuple, Mapping)):
            found[before + name] = json.dumps(value, sort_keys=True, separators=(",", ":"))
        else:
            found[before + name] = value
    return found


def _note(kinds: dict[str, ColumnKind], name: str, value: Scalar) -> None:
    """Widen the kind of a column so that it holds a value."""
    known = kinds.get(name)
    if value is None:
        return
    kind = _kind(value)
    if known in (None, kind):
        kinds[name] = kind
    elif {known, kind} == {ColumnKind.INT, ColumnKind.FLOAT}:
        kinds[name] = ColumnKind.FLOAT
    else:
        kinds[name] = ColumnKind.TEXT


def _kind(value: Scalar) -> ColumnKind:
    if isinstance(value, bool):
        return ColumnKind.BOOL
    if isinstance(value, int):
        # An integer beyond 64 bits fits no column of numbers.
        return ColumnKind.INT if -(2**63) <= value < 2**63 else ColumnKind.TEXT
    return ColumnKind.FLOAT if isinstance(value, float) else ColumnKind.TEXT


def _cell(value: Scalar, kind: ColumnKind) -> Scalar:
    if value is None:
        return None
    if kind == ColumnKind.FLOAT:
        return float(value)
    if kind == ColumnKind.TEXT:
        return str(value) if isinstance(value, str) else json.dumps(value)
    return value
