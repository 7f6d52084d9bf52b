"""How many updates a run takes to reach a loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

DROP = 0.9
"""The share of the largest drop of the loss that makes the target."""


def target_loss(untrained: float, best: float, drop: float = DROP) -> float:
    """Return the loss after a share of the drop from the untrained loss to the best one.

        target = ℓ0 - drop · (ℓ0 - ℓ*)

    >>> target_loss(2.0, 1.0)
    1.1
    """
    return untrained - drop * (untrained - best)


def updates_to(steps: Sequence[int], losses: Sequence[float], target: float) -> float:
    """Return the updates at the first evaluation whose loss is not above the target.

    It is known to the distance between evaluations; nothing is interpolated.

    Args:
        steps: The updates done at each evaluation, ascending.
        losses: The validation loss at each.
        target: The loss to reach.

    Returns:
        Infinite if no evaluation reached it.

    Source: time to a target as in Dahl et al. 2023, arXiv:2306.07179.

    >>> updates_to([0, 10, 20], [2.0, 1.0, 0.5], 1.2), updates_to([0, 10], [2.0, 1.5], 1.2)
    (10, inf)
    """
    return next(
        (step for step, loss in zip(steps, losses, strict=True) if loss <= target), math.inf
    )
