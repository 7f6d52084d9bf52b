"""Turns rows into trials. A database may come from an unknown source: every value is checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Result

from etude.errors import StorageError, shown
from etude.record import from_json
from etude.storage.study import canonical
from etude.storage.study.values import StoredTrial, TrialState

MOST_TRIALS = 2**31 - 1
"""The largest number of a trial, which both databases can hold."""


def tables_of(result: Result[Any]) -> list[dict[str, Any]]:
    """Return the rows of a query as tables, column by column."""
    names = list(result.keys())
    return [dict(zip(names, row, strict=True)) for row in result]


TEXT, REAL = (str, type(None)), (float, type(None))

COLUMNS: Mapping[str, tuple[type, ...]] = {
    "attempts": (int,), "lost": (int,), "worker": TEXT, "loss": REAL, "metric": REAL,
    "diverged": (bool, type(None)), "seconds": REAL, "record": TEXT, "weights": TEXT,
    "error": TEXT, "place": TEXT, "finished": REAL,
}  # fmt: skip
"""The columns that are read as they are, with the types of what Etude stores in them."""


def trial_of(row: Mapping[str, Any]) -> StoredTrial:
    """Return the trial that a row holds.

    Raises:
        StorageError: If a value is of another kind; the message names the trial and the column.
    """
    number = whole(row["number"], "the number of a trial")
    for name, kinds in COLUMNS.items():
        if type(row[name]) not in kinds:
            raise damaged(f"the {name} of trial {number}", row[name])
    more = row["more"]
    return StoredTrial(
        number=number,
        parameters=canonical.read(row["parameters"], f"the parameters of trial {number}"),
        state=state_of(row["state"], number),
        values={} if more is None else _numbers(more, f"the values of trial {number}"),
        **{name: row[name] for name in COLUMNS},
    )


def state_of(word: object, number: int | None = None) -> TrialState:
    """Return the state that a word of the database stands for.

    Args:
        word: The word.
        number: Of the trial, for the error; None if it is not known.

    Raises:
        StorageError: If there is no such state.
    """
    state = _STATES.get(word) if isinstance(word, str) else None
    if state is not None:
        return state
    which = "a trial" if number is None else f"trial {number}"
    raise damaged(f"the state of {which}", word)


_STATES = {str(state): state for state in TrialState}


def whole(value: object, what: str) -> int:
    """Return a whole number from 0 on.

    Raises:
        StorageError: If it is anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_TRIALS:
        raise damaged(what, value)
    return value


def real(value: object, what: str) -> float | None:
    """Return a number, or None.

    Raises:
        StorageError: If it is anything else.
    """
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return None if value is None else float(value)
    raise damaged(what, value)


def text(value: object, what: str) -> str:
    """Return a text.

    Raises:
        StorageError: If it is anything else.
    """
    if isinstance(value, str):
        return value
    raise damaged(what, value)


def damaged(what: str, value: object) -> StorageError:
    """Return the error for a value that Etude never stores."""
    return StorageError(f"the study database is damaged: {what} is {shown(value)}")


def _numbers(value: object, what: str) -> dict[str, float]:
    found = canonical.read(value, what)
    try:
        return {name: from_json(one) for name, one in found.items()}
    except (TypeError, ValueError) as error:
        raise StorageError(f"the study database is damaged: {what}: {error}") from error
