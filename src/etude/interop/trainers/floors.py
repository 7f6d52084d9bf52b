"""The rate below which a scheduler never goes, and a warning if it lies above the tuned rate."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from etude.optimizers.prior import nice

SHARE = 0.01
"""The floor that is proposed, as a share of the tuned rate."""


@dataclass(frozen=True)
class Floor:
    """The lowest rate of a scheduler.

    Attributes:
        scheduler: The scheduler's name.
        option: What sets the floor.
        lr: The floor, as a rate.
    """

    scheduler: str
    option: str
    lr: float


def floor_of(scheduler: Any) -> Floor | None:
    """Return the floor of a scheduler object, or None if it has none that can be read.

    Reads `min_lrs` (ReduceLROnPlateau, GreedyLR), `eta_min` (CosineAnnealingLR and its restarts)
    and `min_lr`; of several groups the highest floor.

    Args:
        scheduler: A scheduler of torch or transformers, or one of the same attributes.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    >>> floor_of(torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10, eta_min=0.01))
    Floor(scheduler='CosineAnnealingLR', option='eta_min', lr=0.01)
    """
    for option, name in (("min_lr", "min_lrs"), ("eta_min", "eta_min"), ("min_lr", "min_lr")):
        value = getattr(scheduler, name, None)
        values = value if isinstance(value, (list, tuple)) else [value]
        known = [float(v) for v in values if isinstance(v, (int, float))]
        if known:
            return Floor(type(scheduler).__name__, option, max(known))
    return None


def warn_of_floor(floor: Floor | None, lr: float) -> None:
    """Warn if a floor lies above a rate.

    Args:
        floor: The floor; None never warns.
        lr: The tuned rate.
    """
    if floor is None or floor.lr <= lr:
        return
    warnings.warn(
        f"the scheduler {floor.scheduler} never goes below {floor.option}={floor.lr:g}, which is "
        f"above the tuned rate {lr:g}: training with it would leave that rate; set "
        f"{floor.option}={nice(SHARE * lr):g}, or train with the schedule that was tuned",
        stacklevel=3,
    )
