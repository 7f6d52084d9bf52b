"""Which updates each process does when, so that all of them end at the same time."""

from __future__ import annotations

import math
from collections.abc import Sequence

SHORTEST = 16
"""Updates below which a piece of a run is not worth its way to another process."""


def pieces(lengths: Sequence[int], processes: int) -> list[tuple[int, int]]:
    """Cut runs so that no process waits for another's last one.

    With T = max(longest, sum / processes), the processes' time is filled up to T one after the
    other. A run that does not fit into what is left of one is cut: its end goes there, its
    beginning to the beginning of the next process, so that the two never overlap (McNaughton,
    1959, "Scheduling with Deadlines and Loss Functions").

    Args:
        lengths: Updates of each run.
        processes: How many there are.

    Returns:
        (run, updates done at the piece's end) in the order in which to begin them.

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
        late = end - used  # updates that go to the end of this process
        early = length - late
        if early <= 0:
            found.append((used, run, length))
            used += length
        elif min(early, late) < SHORTEST:
            # Too little to cut off: whole, on whichever process it overfills least.
            found.append((used if early < late else 0, run, length))
            used = 0 if early < late else length
        else:
            found += [(0, run, early), (used, run, length)]
            used = early
    # Of what begins first, the beginnings of cut runs: their ends wait for them.
    found.sort(key=lambda piece: (piece[0], piece[2] == lengths[piece[1]]))
    return [(run, done) for _, run, done in found]
