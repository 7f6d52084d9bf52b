"""The ladder: how many trials go how far, for a budget in full runs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from etude.errors import BadValueError, check_real

SPACING = 0.4
"""Decades between two neighbouring trials at the start."""


@dataclass(frozen=True)
class Rung:
    """`keep` trials are taken to `share` of the run."""

    share: float
    keep: int


@dataclass(frozen=True)
class Ladder:
    """Rungs in order: the first is reached by all trials, the last is the best's finish.

    Attributes:
        rungs: The rungs.
    """

    rungs: tuple[Rung, ...]

    def cost(self, folds: int = 1) -> float:
        """Return the cost in full runs when no trial diverges and none is added.

        Args:
            folds: Runs of one trial. With more than one, the finish is a run on all the
                data, of which nothing is paid yet.
        """
        below = [0.0, *(rung.share for rung in self.rungs)]
        paid = [
            rung.keep * (rung.share - before)
            for rung, before in zip(self.rungs, below, strict=False)
        ]
        return sum(paid) if folds == 1 else folds * sum(paid[:-1]) + 1


def _ladder(*rungs: tuple[float, int]) -> Ladder:
    return Ladder(tuple(Rung(share, keep) for share, keep in (*rungs, (1.0, 1))))


LADDERS = (
    _ladder((3 / 16, 2)),
    _ladder((1 / 4, 2)),
    _ladder((1 / 4, 2), (1 / 2, 2)),
    _ladder((3 / 16, 6), (3 / 8, 3), (3 / 4, 2)),
)
"""Cheapest first. `benchmarks.fresh_regret` has what they miss."""

NEEDED = (1.2, 1.25, 1.75, 2.6875)
"""The budget from which each ladder is climbed. It holds what the ladder costs; from 1.75 a rate
beyond the first two as well."""

FOLDED = _ladder((1 / 8, 2))
"""Of the least budget with folds, where every rate costs a run for each."""

SHORT = _ladder((1 / 4, 5), (1 / 2, 3))
"""2.5 runs: of a run so short that an early pause comes after a few updates, which tell little."""

FEW = 16
"""Updates to the first pause below which a budget that holds it climbs the short ladder."""

LEAST = NEEDED[0]
MOST = 1000.0


def full_runs(budget: object) -> float:
    """Return a budget as a plain float.

    Raises:
        BadTypeError: If it is not a number.
    """
    return check_real("budget", budget, "full runs, such as 3.0")


def ladder_for(budget: float, folds: int = 1, length: int | None = None) -> Ladder:
    """Return the longest ladder that a budget pays for.

    Args:
        budget: In full training runs, the finished model included.
        folds: Runs of one trial.
        length: Updates of a full run; None takes it for long.

    Raises:
        BadTypeError: If the budget is not a number.
        BadValueError: If no two rates can be compared for it.

    >>> [rung.keep for rung in ladder_for(3.0).rungs]
    [6, 3, 2, 1]
    """
    budget = full_runs(budget)
    least = LEAST if folds == 1 else FOLDED.cost(folds)
    if not math.isfinite(budget) or not least <= budget <= MOST:
        each = "" if folds == 1 else f" in {folds} folds"
        raise BadValueError(
            f"budget={budget:.15g} is out of bounds: comparing rates{each} takes at least "
            f"{least:g} full runs, the finished model included, and at most {MOST:g} are looked "
            "through; to train at one rate, use train"
        )
    if (
        folds == 1
        and length is not None
        and length < FEW / LADDERS[-1].rungs[0].share
        and budget >= SHORT.cost()
    ):
        return SHORT
    if folds == 1:
        fit = [one for one, need in zip(LADDERS, NEEDED, strict=True) if need <= budget]
    else:
        fit = [one for one in (FOLDED, *LADDERS) if one.cost(folds) <= budget]
    return fit[-1]
