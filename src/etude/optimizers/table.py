"""The table of optimizers: one frozen row each. To add an optimizer, add a row in `rows/`.

A row names its factory as text, so that reading the table loads no torch. Most optimizers come
from torch or the libraries of the extra `optimizers`; Etude implements one only if none of these
has its formula.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from etude.errors import BadTypeError, BadValueError, shown, unknown_name
from etude.optimizers.hyperparameters import Number, Pair
from etude.optimizers.row import OptimizerRow
from etude.optimizers.rows import (
    adam_family,
    adam_variants,
    first_order,
    second_order,
    self_sized,
    whole_tensors,
)

__all__ = ["ROWS", "Number", "OptimizerRow", "Pair", "get", "register"]

_FAMILIES = (first_order, adam_family, adam_variants, whole_tensors, self_sized, second_order)

_TABLE: dict[str, OptimizerRow] = {row.name: row for family in _FAMILIES for row in family.ROWS}

ROWS: Mapping[str, OptimizerRow] = MappingProxyType(_TABLE)
"""Every optimizer, by name."""

OWN: dict[str, tuple[OptimizerRow, Callable[..., Any]]] = {}
"""The classes and functions that recipes of this process were given, by the name in the recipe."""


def get(name: str) -> OptimizerRow:
    """Return the row of an optimizer.

    Raises:
        UnknownNameError: If there is none of that name; the message lists the nearest names.
        BadValueError: If it is an optimizer of one's own that this process was not given.

    >>> get("adamw").hyperparameters["weight_decay"].default
    0.01
    """
    if name in OWN:
        return OWN[name][0]
    if ":" in name:
        raise BadValueError(
            f"optimizer={shown(name)} is somebody's own, and a recipe's text imports and runs "
            "nothing: call etude.optimizers.own(the class or function) first, or pass it as "
            "Recipe(optimizer=...)"
        )
    if name not in ROWS:
        raise unknown_name("optimizer", name, ROWS)
    return ROWS[name]


def keep_own(row: OptimizerRow, factory: Callable[..., Any]) -> OptimizerRow:
    """Remember an optimizer of one's own for the recipes of this process; return its row."""
    OWN[row.name] = row, factory
    return row


def register(row: OptimizerRow) -> OptimizerRow:
    """Add an optimizer of your own to the table, for recipes, tuning and the command line.

    Call it in the file that defines your task, so that worker processes, which load that file,
    know the row too. Registering an equal row again changes nothing.

    Args:
        row: The row; its factory is the 'module:Class' of a torch Optimizer.

    Returns:
        The row.

    Raises:
        BadValueError: If another row has the name, or the factory is not written 'module:Class'.
        BadTypeError: If it is not a row.

    >>> from etude.optimizers.row import OptimizerRow
    >>> own = OptimizerRow(
    ...     name="my_adam", factory="torch.optim:Adam", hyperparameters={}, lr=1e-3, centre=-1.6,
    ...     paper="Kingma & Ba 2015", when="an example", stacked="adam", family="adam",
    ... )
    >>> register(own).name  # doctest: +SKIP
    'my_adam'
    """
    if not isinstance(row, OptimizerRow):
        raise BadTypeError(f"register({row!r}): give an etude.optimizers.OptimizerRow")
    if not row.module or not row.attribute:
        raise BadValueError(f"the factory {row.factory!r} of {row.name!r}: write 'module:Class'")
    if _TABLE.get(row.name, row) != row:
        raise BadValueError(f"an optimizer is already called {row.name!r}: give yours another name")
    _TABLE[row.name] = row
    return row
