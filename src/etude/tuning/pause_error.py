"""How far a pause is off: the error of a difference in score as a forecast of that at the end."""

from __future__ import annotations

from itertools import pairwise

PAUSE_ERROR = (
    (1 / 16, 0.38),
    (1 / 8, 0.15),
    (3 / 16, 0.08),
    (1 / 4, 0.07),
    (3 / 8, 0.04),
    (1 / 2, 0.012),
    (5 / 8, 0.006),
    (3 / 4, 0.004),
    (1.0, 0.0),
)
"""Share of the run, and the standard error there in shares of the drop.

Measured on 19 fresh tasks with three seeds each, on pairs of rates up to .8 decades apart that end
within 1% of the drop of each other: 19 of 20 trailed at the pause by less than twice this.
`benchmarks.calibration` measures it again.
"""


def pause_error(share: float) -> float:
    """Return the standard error at a share of the run, on straight lines between those measured.

    >>> pause_error(1 / 8), round(pause_error(5 / 16), 3), pause_error(1.0)
    (0.15, 0.055, 0.0)
    """
    if share <= PAUSE_ERROR[0][0]:
        return PAUSE_ERROR[0][1]
    for (low, above), (high, below) in pairwise(PAUSE_ERROR):
        if share <= high:
            return above + (share - low) / (high - low) * (below - above)
    return 0.0
