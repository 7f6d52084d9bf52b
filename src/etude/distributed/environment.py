"""Where this process stands among others: read from the variables that `torchrun` sets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from etude.errors import BadValueError

RANK, SIZE = "RANK", "WORLD_SIZE"
LOCAL_RANK, LOCAL_SIZE = "LOCAL_RANK", "LOCAL_WORLD_SIZE"
ADDRESS, PORT = "MASTER_ADDR", "MASTER_PORT"
AGENT_STORE = "TORCHELASTIC_USE_AGENT_STORE"
RESTARTS = "TORCHELASTIC_RESTART_COUNT"
TIMEOUT = "ETUDE_WORLD_TIMEOUT"

FIX = (
    "start it with `torchrun -m etude train ...` or `etude train ... --nproc N`, which set RANK, "
    "WORLD_SIZE, MASTER_ADDR and MASTER_PORT, or unset them"
)


@dataclass(frozen=True)
class ProcessPlace:
    """The place of a process among those that train together.

    Attributes:
        rank: Its number among all processes.
        size: The number of processes.
        local_rank: Its number among those of its machine.
        local_size: The number of processes of its machine.
        address: The host on which the processes meet.
        port: The port there.
        hosted: Whether somebody else, the process that started this one, answers at the port.
        restarts: How often the processes were started again after one had failed.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    address: str
    port: int
    hosted: bool = False
    restarts: int = 0

    @classmethod
    def read(cls, variables: Mapping[str, str] | None = None) -> ProcessPlace | None:
        """Return the place that the environment describes; None if there is one process.

        Args:
            variables: The environment; None for that of this process.

        Raises:
            BadValueError: If a variable is missing or wrong; the message names it.

        >>> ProcessPlace.read({}) is None
        True
        """
        found = os.environ if variables is None else variables
        if RANK not in found and SIZE not in found:
            return None
        size = _whole(found, SIZE, 1)
        rank = _whole(found, RANK, 0)
        if rank >= size:
            raise BadValueError(f"{RANK}={rank} with {SIZE}={size}: ranks go from 0 to {size - 1}")
        if size == 1:
            return None
        if not found.get(ADDRESS):
            raise _missing(found, ADDRESS)
        port = _whole(found, PORT, 1)
        if port > 65_535:
            raise BadValueError(f"{PORT}={port}: a port is at most 65535")
        return cls(
            rank,
            size,
            _whole(found, LOCAL_RANK, 0, rank),
            _whole(found, LOCAL_SIZE, 1, size),
            found[ADDRESS],
            port,
            found.get(AGENT_STORE, "") == "True",
            _whole(found, RESTARTS, 0, 0),
        )

    def variables(self) -> dict[str, str]:
        """Return the variables from which `read` returns this place."""
        return {
            RANK: str(self.rank),
            SIZE: str(self.size),
            LOCAL_RANK: str(self.local_rank),
            LOCAL_SIZE: str(self.local_size),
            ADDRESS: self.address,
            PORT: str(self.port),
            AGENT_STORE: str(self.hosted),
            RESTARTS: str(self.restarts),
        }


def _whole(found: Mapping[str, str], name: str, least: int, default: int | None = None) -> int:
    text = found.get(name, "").strip()
    if not text:
        if default is not None:
            return default
        raise _missing(found, name)
    if not text.isdigit() or int(text) < least:
        raise BadValueError(f"{name}={found[name]!r}: give a whole number of at least {least}")
    return int(text)


def _missing(found: Mapping[str, str], name: str) -> BadValueError:
    present = [n for n in (RANK, SIZE, ADDRESS, PORT) if found.get(n)]
    shown = ", ".join(f"{n}={found[n]}" for n in present)
    return BadValueError(f"{name} is not set, and {shown}: {FIX}")
