"""Stores what came of trials, once for each trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, update

from etude.storage.study.leases import locked
from etude.storage.study.schema import trials
from etude.storage.study.values import Acceptance, Claim, TrialState


def store(
    connection: Connection,
    study: int,
    claims: Sequence[Claim],
    state: TrialState,
    rows: Sequence[Mapping[str, Any]],
) -> list[Acceptance]:
    """End trials with a state and the values of its columns, if their lease is still the last.

    A lease that has expired still counts until another worker claims the trial.

    Args:
        connection: In a transaction that writes.
        study: The study.
        claims: The claims.
        state: Done or failed.
        rows: The columns of each.

    Returns:
        What became of each, in order.
    """
    told: list[Acceptance] = []
    accepted: dict[int, Mapping[str, Any]] = {}
    for (claim, row), values in zip(locked(connection, study, claims), rows, strict=True):
        if row is None or row["lease"] != claim.lease:
            told.append(Acceptance.LATE)
        elif row["state"] in (TrialState.DONE, TrialState.FAILED) or claim.number in accepted:
            told.append(Acceptance.SAME)
        else:
            accepted[claim.number] = {"of_number": claim.number, **values}
            told.append(Acceptance.ACCEPTED)
    if accepted:
        columns: dict[str, Any] = {name: bindparam(name) for name in rows[0]}
        connection.execute(
            update(trials)
            .where(trials.c.study == study, trials.c.number == bindparam("of_number"))
            .values(state=state, **columns),
            list(accepted.values()),
        )
    return told
