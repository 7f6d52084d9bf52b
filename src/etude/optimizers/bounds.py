"""Bounds of scheduled hyperparameters: those of the table, or general ones without a row."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from etude.errors import BadValueError
from etude.optimizers.hyperparameters import Hyperparameter, Number, Pair
from etude.optimizers.row import OptimizerRow

RATE = Number(1e-3)
"""Bounds of a learning rate, for any optimizer."""

ANY = Number(0.0, low=-float("inf"))
"""Bounds of an unknown hyperparameter: any finite number."""

_SHARE = Number(0.9, high=1)

GENERAL: Mapping[str, Number] = MappingProxyType(
    {
        "lr": RATE,
        "momentum": _SHARE,
        "beta1": _SHARE,
        "beta2": _SHARE,
        "weight_decay": Number(0.0),
        "eps": Number(1e-8),
        "dampening": Number(0.0, high=1, closed=True),
    }
)
"""Bounds of an optimizer that is not in the table."""


def bounds_of(
    name: str, row: OptimizerRow | None, group: Mapping[str, Any], *, inside: bool = False
) -> Number:
    """Return the bounds of a hyperparameter that is scheduled during training.

    Args:
        name: The name of the hyperparameter.
        row: The optimizer's row in the table, or None.
        group: The parameter group that has it.
        inside: Whether it is one of the two betas.

    Raises:
        BadValueError: The optimizer reads it only when it is built, or it is not a real number,
            so that a schedule cannot change it.

    >>> from etude.optimizers import get
    >>> bounds_of("momentum", get("adam"), {}, inside=True).bounds
    'in [0, 1)'
    """
    if name == "lr":
        return RATE
    if name == "dampening" and group.get("nesterov"):
        return Number(0.0, high=0.0, closed=True)  # torch accepts no other value
    known: Hyperparameter | None = None
    if row is not None:
        known = row.hyperparameters.get("betas" if inside else name)
    if known is None:
        return GENERAL.get(name, ANY)
    assert row is not None
    if isinstance(known, Pair) or (isinstance(known, Number) and not known.once):
        found = row.scheduled(name)
        return ANY if found is None else found
    raise BadValueError(
        f"{name}: {row.name} cannot change it during training: give it a fixed value"
    )
