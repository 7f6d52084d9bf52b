"""The ladder: how many candidates go how far, for a budget in full runs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from etude.errors import BadTypeError, BadValueError


@dataclass(frozen=True)
class Rung:
    """`keep` candidates are taken to `share` of the run."""

    share: float
    keep: int


@dataclass(frozen=True)
class Ladder:
    """Rungs in order, and how far apart the first candidates stand.

    Attributes:
        spacing: Decades between two neighbouring candidates.
        rungs: The first is reached by all candidates; the last is the finish of the best.
    """

    spacing: float
    rungs: tuple[Rung, ...]

    def cost(self) -> float:
        """Return the cost in full runs when no candidate diverges and none is added."""
        below = [0.0, *(rung.share for rung in self.rungs)]
        return sum(
            rung.keep * (rung.share - before)
            for rung, before in zip(self.rungs, below, strict=False)
        )


def _ladder(spacing: float, *rungs: tuple[float, int]) -> Ladder:
    return Ladder(spacing, tuple(Rung(share, keep) for share, keep in (*rungs, (1.0, 1))))


LADDERS = (
    _ladder(0.4, (1 / 8, 3)),  # 1.25 runs
    _ladder(0.45, (1 / 8, 4), (1 / 4, 2)),  # 1.5
    _ladder(0.4, (1 / 8, 5), (1 / 4, 3), (1 / 2, 2)),  # 2.0
    _ladder(0.4, (1 / 4, 5), (1 / 2, 3), (3 / 4, 2)),  # 2.75, and a candidate beyond an edge
)
"""Cheapest first. What a budget holds beyond its ladder goes to candidates beyond an edge, then
to neighbours of the best, then to the edge of stability."""

LEAST = LADDERS[0].cost()


def ladder_for(budget: float) -> Ladder:
    """Return the longest ladder that a budget pays for.

    Args:
        budget: In full training runs, the finished model included.

    Raises:
        BadValueError: If no two rates can be compared for it.

    >>> [rung.keep for rung in ladder_for(3.0).rungs]
    [5, 3, 2, 1]
    """
    if isinstance(budget, bool) or not isinstance(budget, (int, float)):
        raise BadTypeError(f"budget={budget!r} is not a number: give full runs, such as 3.0")
    if not math.isfinite(budget) or budget < LEAST:
        raise BadValueError(
            f"budget={budget!r} is out of bounds: comparing rates takes at least {LEAST} full "
            "runs, the finished model included; to train at one rate, use train"
        )
    return max((one for one in LADDERS if one.cost() <= budget), key=Ladder.cost)
