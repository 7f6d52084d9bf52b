"""What one process leaves for the others when it fails, so that one message names the cause."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import Any

from torch.distributed import Store  # type: ignore[attr-defined]

from etude import errors
from etude.errors import EtudeError, WorldError

KEY = "etude/failure"
POLL = 0.05

LOST = (
    "Connection closed",
    "Connection reset",
    "Connection refused",
    "Broken pipe",
    "Timed out waiting",
    "timed out",
    "Socket closed",
    "Read error",
    "Write error",
    "NCCL",
    "gloo/transport",
)
"""Parts of the messages with which torch reports that another process does not answer."""


@dataclass(frozen=True)
class Failure:
    """The failure of one process.

    Attributes:
        rank: Its number.
        kind: The name of the error's class; empty if the process was killed.
        text: The message.
    """

    rank: int
    kind: str
    text: str

    def error(self, size: int) -> EtudeError:
        """Return the error to raise in the other processes: of the same class, if it is ours."""
        kind: Any = getattr(errors, self.kind, None)
        ours = isinstance(kind, type) and issubclass(kind, EtudeError)
        text = self.text if ours or not self.kind else f"{self.kind}: {self.text}"
        where = f"process {self.rank} of {size}"
        if not self.kind:
            return WorldError(f"{where} {text}")
        found: EtudeError = (
            kind(f"{where} failed: {text}") if ours else WorldError(f"{where}: {text}")
        )
        return found


class FailureNotes:
    """The notes that processes leave in the store in which they have met.

    Args:
        store: The store.

    Attributes:
        call: The number of the call that they make together; a note of an earlier one is not read.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.call = 0

    def write(self, failure: Failure) -> None:
        """Leave a note, unless there is one already or the store has gone."""
        self._write(f"{KEY}/{self.call}", failure)

    def write_end(self, failure: Failure) -> None:
        """Leave a note of a process that can call nothing any more."""
        self._write(KEY, failure)

    def _write(self, key: str, failure: Failure) -> None:
        try:
            self._store.compare_set(key, "", json.dumps(asdict(failure)))
        except RuntimeError:
            return

    def read(self, seconds: float = 0.0) -> Failure | None:
        """Return the first note; None if there is none after some seconds."""
        end = time.monotonic() + seconds
        try:
            while True:
                for key in (f"{KEY}/{self.call}", KEY):
                    if self._store.check([key]):
                        return Failure(**json.loads(self._store.get(key)))
                if time.monotonic() >= end:
                    return None
                time.sleep(POLL)
        except (RuntimeError, ValueError, TypeError):
            return None


def is_lost(error: BaseException) -> bool:
    """Return whether an error says that another process does not answer.

    >>> is_lost(RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer"))
    True
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, RuntimeError) and any(part in str(seen) for part in LOST):
            return True
        seen = seen.__cause__
    return False
