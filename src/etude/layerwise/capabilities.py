"""Decides which optimizers support which multipliers, and explains why one does not."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from etude.errors import BadValueError
from etude.optimizers.row import OptimizerRow
from etude.optimizers.table import ROWS

WHY_NO_SLICES: Mapping[str, str] = MappingProxyType(
    {
        "ASGD": "its step size is not linear in the rate",
        "Rprop": "it reads the rate at its first update only",
    }
)
"""Why rows of a tensor cannot have their own rates, for torch's classes without a row."""


def row_of(optimizer: type) -> OptimizerRow | None:
    """Return the table's row of an optimizer class, or of the nearest class it derives from.

    >>> import torch
    >>> row_of(torch.optim.AdamW).name
    'adamw'
    """
    # If several rows have the same class, the first counts: a user's row may use a torch class.
    rows = reversed([*ROWS.values()])
    by_class = {(row.module.partition(".")[0], row.attribute): row for row in rows}
    for base in optimizer.__mro__:
        found = by_class.get((base.__module__.partition(".")[0], base.__name__))
        if found is not None:
            return found
    return None


def refuse(optimizer: type, row: OptimizerRow | None, *, slices: bool) -> None:
    """Raise for multipliers that an optimizer does not support.

    Args:
        optimizer: The class of the optimizer.
        row: Its row in the table; None if it has none.
        slices: Whether some tensor has slices or a trust ratio, which need an update that is
            linear in the rate, entry by entry.

    Raises:
        BadValueError: If it does not; the message says why and what to do.
    """
    name = optimizer.__name__ if row is None else row.name
    if row is not None and row.why_no_rates:
        raise BadValueError(
            f"{name} refuses lr_mult: {row.why_no_rates}; leave lr_mult out, and "
            "freeze a part with requires_grad=False in the model"
        )
    if not slices or (row is not None and row.linear):
        return
    why = WHY_NO_SLICES.get(name) if row is None else row.why_no_slices
    if why is None:
        raise BadValueError(
            f"{name} is not known to have an update that is linear in its rate, entry by entry, "
            "which slices and trust ratios need: say linear=True if it is"
        )
    raise BadValueError(
        f"{name} refuses multipliers of slices, and trust ratios: {why}; give the whole tensor a "
        "multiplier, or use an optimizer such as adamw"
    )
