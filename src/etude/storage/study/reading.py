"""Turns rows into trials. A database may come from an unknown source: every value is checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from sqlalchemy import Result

from etude.errors import StorageError, UnknownNameError, member, shown
from etude.record import from_json
from etude.storage.study import canonical
from etude.storage.study.values import StoredTrial, TrialState

T = TypeVar("T")

MOST_TRIALS = 2**31 - 1
"""The largest number of a trial, which both databases can hold."""


def tables_of(result: Result[Any]) -> list[dict[str, Any]]:
    """Return the rows of a query as tables, column by column."""
    return [{str(name): value for name, value in row.items()} for row in result.mappings()]


def trial_of(row: Mapping[str, Any]) -> StoredTrial:
    """Return the trial that a row holds.

    Raises:
        StorageError: If a value is of another kind; the message names the trial and the column.
    """
    number = whole(row["number"], "the number of a trial")
    where = f"of trial {number}"
    return StoredTrial(
        number,
        canonical.read(row["parameters"], f"the parameters {where}"),
        state_of(row["state"], where),
        whole(row["attempts"], f"the attempts {where}"),
        whole(row["lost"], f"the lost workers {where}"),
        worker=optional(row["worker"], str, f"the worker {where}"),
        loss=real(row["loss"], f"the loss {where}"),
        metric=real(row["metric"], f"the metric {where}"),
        diverged=_truth(row["diverged"], f"diverged {where}"),
        seconds=real(row["seconds"], f"the seconds {where}"),
        values=_numbers(row["more"], f"the values {where}"),
        record=optional(row["record"], str, f"the record {where}"),
        weights=optional(row["weights"], str, f"the weights {where}"),
        error=optional(row["error"], str, f"the error {where}"),
        place=optional(row["place"], str, f"the place {where}"),
        finished=real(row["finished"], f"the end {where}"),
    )


def state_of(word: object, where: str) -> TrialState:
    """Return the state that a word of the database stands for.

    Raises:
        StorageError: If there is no such state.
    """
    try:
        return member(TrialState, word, "state")
    except UnknownNameError as error:
        raise StorageError(f"the study database is damaged: the state {where}: {error}") from error


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


def optional(value: object, kind: type[T], what: str) -> T | None:
    """Return a value of a kind, or None.

    Raises:
        StorageError: If it is of another kind.
    """
    if value is None or isinstance(value, kind):
        return value
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
    found = {} if value is None else canonical.read(value, what)
    try:
        return {name: from_json(one) for name, one in found.items()}
    except (TypeError, ValueError) as error:
        raise StorageError(f"the study database is damaged: {what}: {error}") from error


def _truth(value: object, what: str) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    raise damaged(what, value)
