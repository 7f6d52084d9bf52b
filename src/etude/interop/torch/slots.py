"""The place of a hyperparameter in a parameter group, and its value before any schedule."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from etude.errors import BadTypeError, BadValueError, unknown_name
from etude.optimizers.own_values import get

_BETAS = {"momentum": 0, "beta1": 0, "beta2": 1}
"""Hyperparameters that some optimizers keep in the tuple `betas`: name -> index."""


class Slot(NamedTuple):
    """A key of a group and, for a value in a tuple such as betas, its index there."""

    key: str
    inside: int | None = None


def find(name: str, group: dict[str, Any], place: int) -> Slot:
    """Return the slot of a hyperparameter in a group.

    `momentum` is the first of `betas` if the optimizer has no hyperparameter `momentum`.

    Args:
        name: The name, such as 'lr', 'momentum', 'weight_decay', 'beta2' or any key of the group.
        group: The parameter group.
        place: Its number, for the error message.

    Raises:
        UnknownNameError: The group has no such hyperparameter.
        BadTypeError: Its value is not a number.
    """
    if name in group and name != "params":
        slot = Slot(name)
    elif name in _BETAS and isinstance(group.get("betas"), tuple | list):
        slot = Slot("betas", _BETAS[name])
    else:
        raise unknown_name(f"hyperparameter of group {place}", name, known(group))
    value = get(group, slot)
    if isinstance(value, bool) or not (value is None or isinstance(value, int | float | Tensor)):
        raise BadTypeError(
            f"{name} of group {place} is {value!r}, not a number, so it cannot follow a schedule"
        )
    return slot


def known(group: dict[str, Any]) -> list[str]:
    """Return the names of the hyperparameters of a group that can follow a schedule."""
    names = [
        key
        for key, value in group.items()
        if isinstance(value, int | float | Tensor)
        and not isinstance(value, bool)
        and not key.startswith("initial_")
    ]
    return names + (list(_BETAS) if "betas" in group else [])


def base(name: str, group: dict[str, Any], slot: Slot, place: int) -> float:
    """Return a group's value of a hyperparameter before any schedule changed it.

    The group keeps it as `initial_lr`, `initial_weight_decay` and so on, as torch does, so that
    it is saved and loaded with the optimizer.
    """
    value = group.get(f"initial_{name}")
    if value is None:
        value = get(group, slot)
    if value is None:
        raise BadValueError(
            f"{name} of group {place} is None, so there is nothing to multiply: "
            "give absolute values, or give the optimizer a number"
        )
    return float(value)
