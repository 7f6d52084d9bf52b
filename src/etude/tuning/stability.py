"""When a rate counts as unstable: it diverged, or stands still far behind the best."""

from __future__ import annotations

import math

from etude.tuning.curve import Curve

LEARNED = 1e-3
"""Share of the untrained score below which a drop is rounding, not learning."""

KEPT, GAINED = 0.8, 0.1
"""A rate above the best is unstable if it keeps less than the one share of the best's drop and
has gained less than the other lately: a network that a high rate has killed predicts a constant,
which is well below the untrained loss and stays there."""


def stands_still(curve: Curve, best: Curve, untrained: float) -> bool:
    """Say whether a rate above the best stands still far behind it.

    That is: after as many updates, its drop from the untrained score is less than `KEPT` of
    the best's, and either that drop or what it gained over the second half of its way is less
    than `GAINED` of the best's.

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
    return kept < GAINED or (kept < KEPT and gained < GAINED)
