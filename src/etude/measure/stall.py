"""Detects a network that a high rate has ruined: its loss stalls above that of a lower rate."""

from __future__ import annotations

KEPT, GAINED = 0.8, 0.1
"""A rate stalls if its drop in loss is less than KEPT of the drop of a lower rate, and less than
GAINED of that drop came in the second half. A network that a high rate has ruined predicts a
constant: its loss is well below the untrained loss, and does not change any more."""


def stands_still(kept: float, gained: float) -> bool:
    """Return whether a run stalls, in comparison with another after the same number of updates.

    Args:
        kept: Its drop in loss, as a share of the other run's drop.
        gained: Its drop in the second half of the updates, as a share of the other run's drop.

    >>> stands_still(0.5, 0.0), stands_still(0.5, 0.2), stands_still(0.05, 0.05)
    (True, False, True)
    """
    return kept < GAINED or (kept < KEPT and gained < GAINED)
