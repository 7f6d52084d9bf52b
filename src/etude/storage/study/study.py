"""One study in a database: its queue of trials, and their results."""

from __future__ import annotations

import math
import os
import platform
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection
from torch import nn

from etude.errors import BadValueError, StorageError, shorten, shown
from etude.record import Record, to_json
from etude.storage.study import leases, results
from etude.storage.study.canonical import canonical
from etude.storage.study.connection import Connector
from etude.storage.study.objects import (
    ObjectFolder,
    load_weights_of,
    record_bytes,
    weight_bytes,
)
from etude.storage.study.trial_rows import (
    add_trials,
    counts_of,
    page,
    parameters_page,
)
from etude.storage.study.values import (
    Acceptance,
    Claim,
    Counts,
    StoredTrial,
    StoredWorker,
    TrialResult,
    TrialState,
    number_or_none,
)

LEASE = 60.0
"""How many seconds a claim holds a trial without a heartbeat."""

MOST_LOST = 10
"""After how many lost workers a trial fails."""

PAGE = 2_000
"""How many trials are read at a time."""

LONGEST_TEXT = 10_000
"""The longest error that is stored, in characters; a longer one loses its middle."""


class StoredStudy:
    """A study in a study database, from `StudyDatabase.create`, `open_study` or `resume`.

    A worker claims trials, trains them while it sends heartbeats, and hands in what came of them:

        while claims := study.claim(8, worker):
            results = train(claims)                    # study.heartbeat(claims) every 20 seconds
            study.finish(results)

    A trial whose worker is killed goes back to the queue when its lease expires. Every trial is
    finished once: see `finish`.

    Attributes:
        id: Its number in the database.
        name: Its name.
        plan: What was given when it was created.
        digest: Of the plan.
        files: The folder of its records and weights; None if the database has none.
    """

    def __init__(
        self,
        connector: Connector,
        id: int,
        name: str,
        plan: Mapping[str, Any],
        digest: str,
        files: ObjectFolder | None,
    ) -> None:
        self._connector = connector
        self.id, self.name, self.plan, self.digest, self.files = id, name, plan, digest, files

    def __repr__(self) -> str:
        return f"<StoredStudy {self.name!r} in {self._connector.place!r}>"

    # ---- the queue -----------------------------------------------------------------------------

    def add(self, parameters: Iterable[Mapping[str, Any]]) -> list[int]:
        """Add trials, as a sampler proposes them; a trial that is there already is not added.

        Args:
            parameters: One table for each trial.

        Returns:
            The number of each trial.

        Raises:
            BadValueError: If two of them are equal.
        """
        tables = list(parameters)
        return self._connector.write(lambda connection: add_trials(connection, self.id, tables))

    def claim(
        self,
        count: int,
        worker: str,
        *,
        seconds: float = LEASE,
        among: Collection[int] | None = None,
        most_lost: int = MOST_LOST,
    ) -> list[Claim]:
        """Claim waiting trials, in the order of their numbers; trials of lost workers are waiting.

        Args:
            count: How many at most.
            worker: Who claims them, such as 'host:pid'.
            seconds: For how long they are this worker's, from now or the last heartbeat.
            among: The numbers to choose from, such as trials that can run together; None for all.
            most_lost: After how many lost workers a trial fails: one that kills its process would
                end every worker otherwise.

        Returns:
            The claims, none if no trial is waiting.
        """
        if count < 1:
            raise BadValueError(f"count={count} is out of bounds: claim at least 1 trial")
        _refuse_seconds(seconds)
        who, lease = _plain(worker, 200), uuid.uuid4().hex
        begun = False

        def work(connection: Connection) -> list[Claim]:
            nonlocal begun
            if begun:  # the transaction before may have passed
                found = leases.granted(connection, self.id, lease, who)
                if found:
                    return found
            begun, now = True, self._connector.now(connection)
            leases.see(connection, self.id, {who})  # first, as in a heartbeat: no circle of locks
            leases.requeue(connection, self.id, self._connector.clock(), most_lost, among)
            return leases.claim(
                connection, self.id, now, count=count, worker=who, lease=lease, seconds=seconds,
                among=among,
            )  # fmt: skip

        # A worker that finds nothing asks again and again: that should not cost a write each time.
        some = self._connector.read(
            lambda connection: leases.any_to_claim(
                connection, self.id, self._connector.clock(), among
            )
        )
        return self._connector.write(work) if some else []

    def heartbeat(self, claims: Sequence[Claim], *, seconds: float = LEASE) -> list[Claim]:
        """Hold claimed trials for longer; send it several times within a lease.

        Args:
            claims: What this worker still trains.
            seconds: For how long from now.

        Returns:
            The claims that are lost: their training can be ended, since another worker has them.
        """
        _refuse_seconds(seconds)
        if not claims:
            return []

        def work(connection: Connection) -> list[Claim]:
            leases.see(connection, self.id, {claim.worker for claim in claims})
            now = self._connector.now(connection)
            return leases.extend(connection, self.id, now, claims, seconds)

        return self._connector.write(work)

    def release(self, claims: Sequence[Claim]) -> None:
        """Return claimed trials to the queue at once, as a worker does that is told to stop."""
        if claims:
            self._connector.write(lambda connection: leases.release(connection, self.id, claims))

    # ---- results -------------------------------------------------------------------------------

    def finish(self, results_: Sequence[TrialResult]) -> list[Acceptance]:
        """Store results, all in one transaction: several together cost as much as one.

        Records and weights are written first, so that the database never names a missing file.
        When it returns, everything is on the disk.

        Args:
            results_: What came of claimed trials.

        Returns:
            For each whether it is accepted, was stored before by the same claim, or is late.

        Raises:
            StorageError: If there is no space, or no folder for records. Nothing is stored then,
                and the call can be repeated.
        """
        if not results_:
            return []
        now = time.time()
        records = self._put(results_)
        rows = [
            {
                "loss": number_or_none(result.loss),
                "metric": number_or_none(result.metric),
                "diverged": bool(result.diverged),
                "seconds": number_or_none(result.seconds),
                "more": _values(result.values),
                "record": record,
                "weights": weights,
                "finished": now,
            }
            for result, (record, weights) in zip(results_, records, strict=True)
        ]
        claims = [result.claim for result in results_]
        return self._connector.write(
            lambda connection: results.store(connection, self.id, claims, TrialState.DONE, rows)
        )

    def fail(self, claim: Claim, error: BaseException | str, place: str = "") -> Acceptance:
        """Store that a trial raised an error; the others go on.

        Args:
            claim: The claim.
            error: The error, or its text.
            place: Where it was raised, such as 'model.py:12'.
        """
        words = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        row = {
            "error": _plain(words, LONGEST_TEXT),
            "place": _plain(place, LONGEST_TEXT),
            "finished": time.time(),
        }
        return self._connector.write(
            lambda connection: results.store(connection, self.id, [claim], TrialState.FAILED, [row])
        )[0]

    # ---- reading -------------------------------------------------------------------------------

    def trials(self, *, state: TrialState | None = None, after: int = -1) -> Iterator[StoredTrial]:
        """Return trials in the order of their numbers; they are read page by page.

        Args:
            state: The state to read; None for all.
            after: The number after which to begin.
        """
        while True:
            found = self._connector.read(
                lambda connection, after=after: page(connection, self.id, after, PAGE, state)  # type: ignore[misc]
            )
            yield from found
            if len(found) < PAGE:
                return
            after = found[-1].number

    def parameters(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Return the number and the parameters of every trial, in order; faster than `trials`."""
        after = -1
        while True:
            found = self._connector.read(
                lambda connection, after=after: parameters_page(connection, self.id, after, PAGE)  # type: ignore[misc]
            )
            yield from found
            if len(found) < PAGE:
                return
            after = found[-1][0]

    def trial(self, number: int) -> StoredTrial:
        """Return one trial.

        Raises:
            BadValueError: If there is no trial of this number.
        """
        found = self._connector.read(
            lambda connection: page(connection, self.id, number - 1, 1, None)
        )
        if not found or found[0].number != number:
            raise BadValueError(
                f"the study {self.name!r} has no trial {shown(number)}: it has "
                f"{self.counts().total:,}, numbered from 0"
            )
        return found[0]

    def waiting(self) -> list[int]:
        """Return the numbers of the trials that can be claimed; those of lost workers can be."""
        return self._connector.read(
            lambda connection: leases.to_claim(connection, self.id, self._connector.clock())
        )

    def counts(self) -> Counts:
        """Return how many trials are in each state; those of lost workers are waiting."""
        found = self._connector.read(
            lambda connection: counts_of(connection, self._connector.clock(), self.id)
        )
        return found.get(self.id, Counts())

    def workers(self) -> list[StoredWorker]:
        """Return who works on the study, or did, in the order in which they began."""
        return self._connector.read(lambda connection: leases.seen(connection, self.id))

    def record(self, trial: StoredTrial) -> Record:
        """Return the Record of a trial.

        Raises:
            StorageError: If it has none, or its file is missing or damaged.
        """
        what = f"the record of trial {trial.number}"
        return self._folder().record(_stored(trial.record, what), what)

    def load_weights(self, trial: StoredTrial, model: nn.Module) -> None:
        """Load the stored weights of a trial into a model.

        Raises:
            StorageError: If it has none, or the file is missing, damaged, or of another model.
        """
        content, path = self._content(trial.weights, f"the weights of trial {trial.number}")
        load_weights_of(content, path, model)

    # ---- inside --------------------------------------------------------------------------------

    def _put(self, found: Sequence[TrialResult]) -> list[tuple[str | None, str | None]]:
        """Write the files of results, and return the digests of records and of weights."""
        with_files = [r for r in found if r.record is not None or r.model is not None]
        if not with_files:
            return [(None, None)] * len(found)
        folder = self._folder()
        contents: list[bytes] = []
        for result in with_files:
            if result.record is not None:
                contents.append(record_bytes(result.record))
            if result.model is not None:
                contents.append(weight_bytes(result.model, folder.scratch()))
        digests = iter(folder.put(contents))
        return [
            (
                None if result.record is None else next(digests),
                None if result.model is None else next(digests),
            )
            for result in found
        ]

    def _content(self, digest: str | None, what: str) -> tuple[bytes, Path]:
        known, folder = _stored(digest, what), self._folder()
        return folder.read(known, what), folder.place(known)

    def _folder(self) -> ObjectFolder:
        if self.files is None:
            raise StorageError(
                f"{self._connector.place!r} has no folder for records and weights: open it with "
                "folder=, the same on all machines that read them"
            )
        return self.files


def _stored(digest: str | None, what: str) -> str:
    if digest is None:
        raise StorageError(f"{what} was not stored")
    return digest


def _values(values: Mapping[str, float]) -> str | None:
    plain = {name: to_json(float(value)) for name, value in values.items()}
    return canonical(plain, "the values of a result") if plain else None


def worker_name() -> str:
    """Return a name for this process: host and process number."""
    return f"{platform.node()}:{os.getpid()}"


def _refuse_seconds(seconds: float) -> None:
    if not 0 < seconds < math.inf:
        raise BadValueError(f"seconds={seconds} is out of bounds: a lease lasts more than 0")


def _plain(text: str, most: int) -> str:
    """Return a text that both databases can hold, of at most `most` characters."""
    whole = text.encode(errors="backslashreplace").decode().replace("\0", "\\0")
    return shorten(whole, most)
