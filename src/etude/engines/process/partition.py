"""Divides the updates of several runs between processes so that all finish at the same time."""

from __future__ import annotations

import math
from collections.abc import Sequence

SHORTEST = 16
"""The smallest piece of a run, in updates; moving a smaller one takes longer than it saves."""


def pieces(lengths: Sequence[int], processes: int) -> list[tuple[int, int]]:
    """Cut runs so that no process waits for the last run of another.

    With T = max(longest, sum / processes), the processes are filled up to T one after the other.
    A run that does not fit into the remaining time of a process is cut: its second piece is done
    at the end of this process, and its first piece at the beginning of the next process, so that
    the two never overlap (McNaughton, 1959, "Scheduling with Deadlines and Loss Functions").

    Args:
        lengths: The number of updates of each run.
        processes: The number of processes.

    Returns:
        (run, updates done at the end of the piece), in the order in which to begin the pieces.

    >>> pieces([100, 100, 100], 2)
    [(1, 50), (0, 100), (2, 100), (1, 100)]
    >>> pieces([100, 100], 2)
    [(0, 100), (1, 100)]
    """
    end = max(max(lengths, default=0), math.ceil(sum(lengths) / processes))
    found: list[tuple[int, int, int]] = []
    used = 0
    for run in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[run]
        late = end - used  # updates at the end of this process
        early = length - late
        if early <= 0:
            found.append((used, run, length))
            used += length
        elif min(early, late) < SHORTEST:
            # A piece would be too small: keep the run whole, in the process that it overfills less.
            found.append((used if early < late else 0, run, length))
            used = 0 if early < late else length
        else:
            found += [(0, run, early), (used, run, length)]
            used = early
    # Among pieces with equal start, first pieces of cut runs go first: second pieces wait for them.
    found.sort(key=lambda piece: (piece[0], piece[2] == lengths[piece[1]]))
    return [(run, done) for _, run, done in found]
