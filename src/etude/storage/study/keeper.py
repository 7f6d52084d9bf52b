"""Sends heartbeats from a thread while a worker trains."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from etude.errors import StorageError
from etude.storage.study.study import LEASE, StoredStudy
from etude.storage.study.values import Claim

BEATS = 3
"""How many heartbeats are sent within a lease, so that one may come late."""


class LeaseKeeper:
    """Holds claims by heartbeats while a block runs.

        with LeaseKeeper(study, claims) as keeper:
            for claim in claims:
                if claim not in keeper.lost:
                    train(claim)

    Args:
        study: The study.
        claims: What to hold.
        seconds: For how long each heartbeat holds them; three are sent in this time.

    Attributes:
        lost: The claims that another worker has now.
        error: Why the last heartbeat could not be sent; None if it was. The next ones are tried.
    """

    def __init__(
        self, study: StoredStudy, claims: Iterable[Claim], *, seconds: float = LEASE
    ) -> None:
        self.study, self.seconds = study, seconds
        self.lost: tuple[Claim, ...] = ()
        self.error: StorageError | None = None
        self._held = {_key(claim): claim for claim in claims}
        self._lock, self._end = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name="etude-heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        self._thread.join()

    def add(self, claims: Iterable[Claim]) -> None:
        """Hold these too."""
        with self._lock:
            self._held.update((_key(claim), claim) for claim in claims)

    def drop(self, claims: Iterable[Claim]) -> None:
        """Hold these no longer: their results are stored, or they were released."""
        with self._lock:
            for claim in claims:
                self._held.pop(_key(claim), None)

    def _beat(self) -> None:
        while not self._end.wait(self.seconds / BEATS):
            with self._lock:
                held = list(self._held.values())
            try:
                lost = self.study.heartbeat(held, seconds=self.seconds)
            except StorageError as error:
                self.error = error
                continue
            self.error = None
            with self._lock:  # a claim that was dropped meanwhile is finished, not lost
                lost = [claim for claim in lost if _key(claim) in self._held]
            self.lost += tuple(lost)
            self.drop(lost)


def _key(claim: Claim) -> str:
    return f"{claim.lease} {claim.number}"
