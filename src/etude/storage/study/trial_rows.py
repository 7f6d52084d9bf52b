"""The rows of trials: adds new ones, and reads them page by page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, insert, select

from etude.errors import BadTypeError, BadValueError, shown
from etude.storage.study import canonical
from etude.storage.study.leases import chunks, expired
from etude.storage.study.reading import state_of, tables_of, trial_of, whole
from etude.storage.study.schema import studies, trials
from etude.storage.study.values import Counts, StoredTrial, TrialState

BLOCK = 5_000
"""How many rows are inserted by one statement."""


def insert_trials(
    connection: Connection, study: int, parameters: Iterable[Mapping[str, Any]]
) -> None:
    """Insert the trials of a new study, numbered from 0.

    Raises:
        BadValueError: If two of them have equal parameters.
    """
    numbers: dict[str, int] = {}
    texts = list(_texts(parameters))
    for number, words in enumerate(texts):
        if words in numbers:
            raise BadValueError(
                f"trials {numbers[words]} and {number} have equal parameters, {shown(words)}: "
                "give each trial once, with its seed among the parameters"
            )
        numbers[words] = number
    _insert(connection, study, texts, first=0)


def add_trials(
    connection: Connection, study: int, parameters: Iterable[Mapping[str, Any]]
) -> list[int]:
    """Insert those trials that are not there yet; return the number of each."""
    texts = list(_texts(parameters))
    keys = {words: canonical.digest_of(words) for words in texts}
    # Nobody else may add trials meanwhile: they would choose the same numbers.
    connection.execute(select(studies.c.id).where(studies.c.id == study).with_for_update())
    known: dict[str, int] = {}
    for some in chunks(list(keys.values())):
        query = select(trials.c.key, trials.c.number)
        for row in connection.execute(query.where(trials.c.study == study, trials.c.key.in_(some))):
            known[row.key] = row.number
    last = select(func.max(trials.c.number)).where(trials.c.study == study)
    found = connection.execute(last).scalar_one()
    first = 0 if found is None else whole(found, "the number of a trial") + 1
    new = [words for words, key in keys.items() if key not in known]
    _insert(connection, study, new, first=first)
    known.update((keys[words], number) for number, words in enumerate(new, first))
    return [known[keys[words]] for words in texts]


def _insert(connection: Connection, study: int, texts: Sequence[str], *, first: int) -> None:
    rows = [
        {
            "study": study,
            "number": number,
            "parameters": words,
            "key": canonical.digest_of(words),
            "state": TrialState.WAITING,
            "attempts": 0,
        }
        for number, words in enumerate(texts, first)
    ]
    for start in range(0, len(rows), BLOCK):
        connection.execute(insert(trials), rows[start : start + BLOCK])


def _texts(parameters: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for i, table in enumerate(parameters):
        if not isinstance(table, Mapping):
            raise BadTypeError(f"the parameters of trial {i} are {shown(table)}: give a table")
        yield canonical.canonical(table, f"the parameters of trial {i}")


def page(
    connection: Connection, study: int, after: int, count: int, state: TrialState | None
) -> list[StoredTrial]:
    """Return the next trials after a number, in order."""
    query = select(trials).where(trials.c.study == study, trials.c.number > after)
    if state is not None:
        query = query.where(trials.c.state == state)
    rows = tables_of(connection.execute(query.order_by(trials.c.number).limit(count)))
    return [trial_of(row) for row in rows]


def parameters_page(
    connection: Connection, study: int, after: int, count: int
) -> list[tuple[int, dict[str, Any]]]:
    """Return the number and the parameters of the next trials after a number, in order."""
    query = select(trials.c.number, trials.c.parameters).where(
        trials.c.study == study, trials.c.number > after
    )
    found = []
    for number, words in connection.execute(query.order_by(trials.c.number).limit(count)):
        which = whole(number, "the number of a trial")
        found.append((which, canonical.read(words, f"the parameters of trial {which}")))
    return found


def counts_of(
    connection: Connection, now: ColumnElement[float], study: int | None = None
) -> dict[int, Counts]:
    """Return the counts of one or all studies; a trial whose lease has expired is waiting."""
    query = select(trials.c.study, trials.c.state, func.count().label("trials"))
    late = select(trials.c.study, func.count().label("trials")).where(expired(now))
    if study is not None:
        query, late = query.where(trials.c.study == study), late.where(trials.c.study == study)
    found: dict[int, dict[str, int]] = {}
    for row in connection.execute(query.group_by(trials.c.study, trials.c.state)):
        state = state_of(row.state)
        found.setdefault(row.study, dict.fromkeys(TrialState, 0))[state] = row.trials
    for row in connection.execute(late.group_by(trials.c.study)):
        found[row.study][TrialState.RUNNING] -= row.trials
        found[row.study][TrialState.WAITING] += row.trials
    return {study: Counts(**counts) for study, counts in found.items()}
