"""Evaluation steps: the updates after which a run is evaluated on its validation data."""

from __future__ import annotations

from collections.abc import Iterable


def evenly_spaced(length: int, count: int) -> set[int]:
    """Return the updates that divide a length into `count` parts, including both ends.

    >>> sorted(evenly_spaced(10, 4))
    [0, 2, 5, 7, 10]
    """
    return {length * i // count for i in range(count + 1)}


def own_evaluation_steps(extended: Iterable[tuple[int, int]], length: int, count: int) -> set[int]:
    """Return a run's own evaluation steps, even if its length was changed.

    Args:
        extended: (update, length until then) for each change, in order.
        length: The length since the last change.
        count: The number of evaluations in a run, besides the one before training.

    >>> sorted(own_evaluation_steps([(10, 10)], 20, 4))
    [0, 2, 5, 7, 10, 15, 20]
    """
    found: set[int] = {0}
    begin = 0
    for until, own in (*extended, (length, length)):
        found |= {step for step in evenly_spaced(own, count) if begin < step <= until}
        begin = until
    return found
