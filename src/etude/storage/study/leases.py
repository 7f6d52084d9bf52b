"""Leases: who may train a trial, and until when.

A lease has a name, which is new with every claim and is kept in the row. A result, an extension
or a release counts only under the last lease of its trial; so however often a trial is trained, it
is finished once, whatever any clock says. Clocks decide only when a trial is given to the next
worker. A lease is held while

    granted <= now < expires

and a claim returns all others to the queue. A clock that jumps forward, or a machine that
restarts, lets leases expire too early: some work is repeated. A clock that is set back ends the
leases that were granted after its new time; none lasts longer than its length from then on. So no
jump can lose a trial or keep one from the queue for longer than a lease.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Update,
    and_,
    bindparam,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from etude.storage.study import canonical
from etude.storage.study.reading import real, tables_of, text, whole
from etude.storage.study.schema import trials, workers
from etude.storage.study.values import Claim, StoredWorker, TrialState

T = TypeVar("T")

CHUNK = 500
"""How many numbers one statement lists; SQLite takes 999 parameters in its older versions."""


def expired(now: ColumnElement[float]) -> ColumnElement[bool]:
    """Return the condition that a running trial's lease is not held any more.

    Args:
        now: The time, `Connector.clock`.
    """
    return and_(
        trials.c.state == TrialState.RUNNING,
        or_(trials.c.granted > now, trials.c.expires <= now),
    )


def any_to_claim(
    connection: Connection,
    study: int,
    now: ColumnElement[float],
    among: Collection[int] | None = None,
) -> bool:
    """Return whether a trial is waiting, or is held by a lease that has expired."""
    query = _to_claim(study, now)
    if among is None:
        return connection.execute(query.limit(1)).first() is not None
    return any(
        connection.execute(query.where(trials.c.number.in_(some)).limit(1)).first() is not None
        for some in chunks(sorted(among))
    )


def to_claim(connection: Connection, study: int, now: ColumnElement[float]) -> list[int]:
    """Return the numbers of the trials that are waiting, or whose lease has expired, in order."""
    rows = connection.execute(_to_claim(study, now).order_by(trials.c.number))
    return [whole(row.number, "the number of a trial") for row in rows]


def _to_claim(study: int, now: ColumnElement[float]) -> Select[tuple[int]]:
    # The states are listed so that the index is used, and not every trial is looked at.
    open_states = trials.c.state.in_([TrialState.WAITING, TrialState.RUNNING])
    free = or_(trials.c.state == TrialState.WAITING, expired(now))
    return select(trials.c.number).where(trials.c.study == study, open_states, free)


def requeue(
    connection: Connection,
    study: int,
    now: ColumnElement[float],
    most_lost: int,
    among: Collection[int] | None = None,
) -> None:
    """Return the trials whose lease has expired to the queue, or give up those that cost too many.

    Args:
        connection: In a transaction that writes.
        study: The study.
        now: The time, `Connector.clock`.
        most_lost: After how many lost workers a trial fails.
        among: The numbers to look at; None looks at every trial that is running.
    """
    query = (
        select(trials.c.number)
        .where(trials.c.study == study, expired(now))
        .with_for_update(skip_locked=True)
    )
    parts = [query]
    if among is not None:
        parts = [query.where(trials.c.number.in_(some)) for some in chunks(sorted(among))]
    late = [row.number for part in parts for row in connection.execute(part)]
    for some in chunks(late):
        lost = update(trials).where(trials.c.study == study, trials.c.number.in_(some))
        more = {"lost": trials.c.lost + 1}
        connection.execute(
            lost.where(trials.c.lost + 1 < most_lost).values(state=TrialState.WAITING, **more)
        )
        connection.execute(
            lost.where(trials.c.state == TrialState.RUNNING).values(
                state=TrialState.FAILED,
                error=f"its worker was lost {most_lost} times: the process was killed, or it sent "
                "no heartbeat",
                finished=time.time(),
                **more,
            )
        )


def claim(
    connection: Connection,
    study: int,
    now: float,
    *,
    count: int,
    worker: str,
    lease: str,
    seconds: float,
    among: Collection[int] | None,
) -> list[Claim]:
    """Grant one lease over the first waiting trials, by number; see `StoredStudy.claim`."""
    found = _waiting(connection, study, count, among)
    for some in chunks([row["number"] for row in found]):
        connection.execute(
            update(trials)
            .where(trials.c.study == study, trials.c.number.in_(some))
            .values(
                state=TrialState.RUNNING,
                attempts=trials.c.attempts + 1,
                lease=lease,
                worker=worker,
                granted=now,
                expires=now + seconds,
            )
        )
    return [_claim(row, lease, worker, 1) for row in found]


def granted(connection: Connection, study: int, lease: str, worker: str) -> list[Claim]:
    """Return what was granted under a lease: its transaction may have passed unnoticed."""
    rows = select(*_OF_A_CLAIM).where(
        trials.c.study == study, trials.c.state == TrialState.RUNNING, trials.c.lease == lease
    )
    found = tables_of(connection.execute(rows.order_by(trials.c.number)))
    return [_claim(row, lease, worker, 0) for row in found]


def extend(
    connection: Connection, study: int, now: float, claims: Sequence[Claim], seconds: float
) -> list[Claim]:
    """Extend leases, also expired ones that nobody has taken since; return those that are lost."""
    lost: list[Claim] = []
    for some in chunks(sorted(claims, key=lambda claim: (claim.lease, claim.number))):
        if not _extended(connection, study, now, some, seconds):
            lost += _extend_each(connection, study, now, some, seconds)
    return lost


def _extended(
    connection: Connection, study: int, now: float, claims: Sequence[Claim], seconds: float
) -> bool:
    """Extend leases by one statement for each lease; return whether all were still held.

    Only where one process writes at a time: rows are not locked in the order of their numbers.
    """
    if connection.dialect.name != "sqlite":
        return False
    numbers: dict[str, set[int]] = {}
    for claim in claims:
        numbers.setdefault(claim.lease, set()).add(claim.number)
    count = 0
    for lease, some in numbers.items():
        count += connection.execute(
            _hold(study, now, seconds).where(
                trials.c.number.in_(sorted(some)),
                trials.c.lease == lease,
                trials.c.state.in_(_OPEN),
            )
        ).rowcount
    return count == sum(map(len, numbers.values()))


def _extend_each(
    connection: Connection, study: int, now: float, claims: Sequence[Claim], seconds: float
) -> list[Claim]:
    """Extend leases that are still held, and return those that are lost."""
    kept: list[Claim] = []
    lost: list[Claim] = []
    for claim, row in locked(connection, study, claims):
        held = row is not None and row["lease"] == claim.lease and row["state"] in _OPEN
        (kept if held else lost).append(claim)
    for some in chunks(sorted({claim.number for claim in kept})):
        connection.execute(_hold(study, now, seconds).where(trials.c.number.in_(some)))
    return lost


def _hold(study: int, now: float, seconds: float) -> Update:
    return (
        update(trials)
        .where(trials.c.study == study)
        .values(state=TrialState.RUNNING, granted=now, expires=now + seconds)
    )


def release(connection: Connection, study: int, claims: Sequence[Claim]) -> None:
    """Return trials to the queue that their worker will not finish."""
    connection.execute(
        update(trials)
        .where(
            trials.c.study == study,
            trials.c.number == bindparam("of_number"),
            trials.c.lease == bindparam("of_lease"),
            trials.c.state == TrialState.RUNNING,
        )
        .values(state=TrialState.WAITING),
        [{"of_number": claim.number, "of_lease": claim.lease} for claim in claims],
    )


def locked(
    connection: Connection, study: int, claims: Sequence[Claim]
) -> Iterator[tuple[Claim, Mapping[str, Any] | None]]:
    """Return each claim with its trial's state and lease; no other worker changes them now."""
    rows: dict[int, Mapping[str, Any]] = {}
    for some in chunks(sorted({claim.number for claim in claims})):
        found = connection.execute(
            select(trials.c.number, trials.c.state, trials.c.lease)
            .where(trials.c.study == study, trials.c.number.in_(some))
            .order_by(trials.c.number)  # the same order for all, so that none waits in a circle
            .with_for_update()
        )
        rows.update((row["number"], row) for row in tables_of(found))
    yield from ((claim, rows.get(claim.number)) for claim in claims)


def see(connection: Connection, study: int, names: Collection[str]) -> None:
    """Note that workers are there."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    now = time.time()
    rows = [{"study": study, "name": name, "since": now, "seen": now} for name in sorted(names)]
    connection.execute(
        insert(workers)
        .values(rows)
        .on_conflict_do_update(index_elements=["study", "name"], set_={"seen": now})
    )


def seen(connection: Connection, study: int) -> list[StoredWorker]:
    """Return the workers of a study, in the order in which they began."""
    query = select(workers).where(workers.c.study == study)
    return [
        StoredWorker(
            text(row["name"], "the name of a worker"),
            real(row["since"], "the begin of a worker") or 0.0,
            real(row["seen"], "the last sign of a worker") or 0.0,
        )
        for row in tables_of(connection.execute(query.order_by(workers.c.since, workers.c.name)))
    ]


def chunks(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """Return a sequence in parts that one statement can list."""
    yield from (values[i : i + CHUNK] for i in range(0, len(values), CHUNK))


_OPEN = (TrialState.RUNNING, TrialState.WAITING)

_OF_A_CLAIM = (trials.c.number, trials.c.parameters, trials.c.attempts)


def _waiting(
    connection: Connection, study: int, count: int, among: Collection[int] | None
) -> list[dict[str, Any]]:
    query = (
        select(*_OF_A_CLAIM)
        .where(trials.c.study == study, trials.c.state == TrialState.WAITING)
        .order_by(trials.c.number)
        .with_for_update(skip_locked=True)
    )
    if among is None:
        return tables_of(connection.execute(query.limit(count)))
    found: list[dict[str, Any]] = []
    for some in chunks(sorted(among)):
        here = query.where(trials.c.number.in_(some)).limit(count - len(found))
        found += tables_of(connection.execute(here))
        if len(found) == count:
            break
    return found


def _claim(row: Mapping[str, Any], lease: str, worker: str, more: int) -> Claim:
    number = whole(row["number"], "the number of a trial")
    return Claim(
        number,
        canonical.read(row["parameters"], f"the parameters of trial {number}"),
        lease,
        worker,
        whole(row["attempts"], f"the attempts of trial {number}") + more,
    )
