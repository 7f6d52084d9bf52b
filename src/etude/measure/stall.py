"""When a rate counts as having killed a network: it stands still, far behind a rate that learns."""

from __future__ import annotations

KEPT, GAINED = 0.8, 0.1
"""A rate above another stalls if it keeps less than the one share of the other's drop in loss and
has gained less than the other share lately: a network that a high rate has killed predicts a
constant, which is well below the untrained loss, and stays there."""


def stands_still(kept: float, gained: float) -> bool:
    """Say whether a run stands still far behind another that went as far.

    Args:
        kept: Its drop in loss, as a share of the other's.
        gained: The part of that which came over the second half of the way.

    >>> stands_still(0.5, 0.0), stands_still(0.5, 0.2), stands_still(0.05, 0.05)
    (True, False, True)
    """
    return kept < GAINED or (kept < KEPT and gained < GAINED)
