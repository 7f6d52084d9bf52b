"""Bounds of what is moved while an optimizer trains: the table's, else those of any optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from etude.errors import BadValueError
from etude.optimizers.hyperparameters import Hyperparameter, Number, Pair
from etude.optimizers.row import OptimizerRow

RATE = Number(1e-3)
"""Bounds of a learning rate, of any optimizer."""

ANY = Number(0.0, low=-float("inf"))
"""Bounds of what nothing is known of: it is finite."""

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
    """Return the bounds of a hyperparameter that is moved while an optimizer trains.

    Args:
        name: Of the hyperparameter.
        row: The optimizer's row in the table, None if it has none.
        group: The parameter group that holds it.
        inside: Whether it is one of the pair of betas.

    Raises:
        BadValueError: The optimizer reads it only when it is built, or it is no number that may
            take any value between others.

    >>> from etude.optimizers import get
    >>> bounds_of("momentum", get("adam"), {}, inside=True).bounds
    'in [0, 1)'
    """
    if name == "lr":
        return RATE
    if name == "dampening" and group.get("nesterov"):
        return Number(0.0, high=0.0, closed=True)  # torch builds no other
    known: Hyperparameter | None = None
    if row is not None:
        known = row.hyperparameters.get("betas" if inside else name)
    if known is None:
        return GENERAL.get(name, ANY)
    assert row is not None
    if isinstance(known, Pair) or (isinstance(known, Number) and not known.once):
        found = row.scheduled(name)
        return ANY if found is None else found
    raise BadValueError(f"{name}: {row.name} cannot change it while training: set it once")
