"""When a rate counts as unstable: it diverged, or had lost for good at its end what it learned."""

from __future__ import annotations

import math

from etude.measure.stall import stands_still
from etude.trials.curve import Curve

LEARNED = 1e-3
"""Share of the untrained score below which a drop is rounding, not learning."""

LOST = 0.5
"""Share of the best's drop, in validation and in training, below which a finished run that
stalls has lost for good what it had learned."""


def stalls(curve: Curve, best: Curve, untrained: float) -> bool:
    """Return whether a rate stands still far behind the best, as far as both were evaluated.

    That is: after as many updates, `stands_still` says so of its drop from the untrained score,
    and of what it gained over the second half of its way, as shares of the best's drop. Early in
    a run this is no sign of the end: it says that higher rates are not worth a look, not that
    training breaks.

    Args:
        curve: Of the rate.
        best: Of the best.
        untrained: The score before training.
    """
    common = [i for i, share in enumerate(curve.shares) if math.isfinite(best.at(share))]
    if not common:
        return False
    share, score = curve.shares[common[-1]], curve.scores[common[-1]]
    drop = untrained - best.at(share)
    if drop <= LEARNED * abs(untrained):
        return False  # the best has learned nothing either
    earlier = [y for x, y in zip(curve.shares, curve.scores, strict=True) if x <= share / 2]
    kept = (untrained - score) / drop
    gained = ((earlier[-1] if earlier else untrained) - score) / drop
    return stands_still(kept, gained)


def lost(curve: Curve, best: Curve, untrained: float) -> bool:
    """Return whether a run that came to its end had lost for good what it learned.

    At its end it stalls with less than `LOST` of the best's drop, and its training loss, too,
    has fallen less than `LOST` as far as the best's: a run that overfits has learned its training
    data.

    Args:
        curve: Of the rate.
        best: Of the best.
        untrained: The score before training.
    """
    if not (math.isfinite(curve.at(1.0)) and math.isfinite(best.at(1.0))):
        return False
    if not stalls(curve, best, untrained):
        return False
    if untrained - curve.at(1.0) >= LOST * (untrained - best.at(1.0)):
        return False
    begun = min(curve.training[0], best.training[0])
    learned = begun - best.training[-1]
    return learned > 0 and begun - curve.training[-1] < LOST * learned
