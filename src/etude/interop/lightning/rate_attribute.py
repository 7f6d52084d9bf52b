"""Where a module keeps its learning rate: an attribute, or a field of its hyperparameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from etude.errors import BadValueError

USUAL = ("lr", "learning_rate")


def attribute_of(module: Any, name: str = "") -> str:
    """Return the name under which a module keeps its rate.

    Args:
        module: The module.
        name: The name, if it is none of 'lr' and 'learning_rate'.

    Raises:
        BadValueError: If there is no such attribute.
    """
    wanted = (name,) if name else USUAL
    for one in wanted:
        if hasattr(module, one) or _in_hyperparameters(module, one):
            return one
    raise BadValueError(
        f"{type(module).__name__} keeps no rate under {' or '.join(map(repr, wanted))}, in itself "
        "or in hparams: give attr_name=, or update_attr=False and set the rate yourself"
    )


def rate_in(module: Any, name: str) -> float | None:
    """Return the rate that a module keeps under a name; None if it is no number above 0."""
    value = getattr(module, name, None)
    if value is None and _in_hyperparameters(module, name):
        kept = module.hparams
        value = kept[name] if isinstance(kept, Mapping) else getattr(kept, name)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return float(value) if 0 < value < math.inf else None


def set_rate(module: Any, name: str, lr: float) -> None:
    """Write a rate wherever the module keeps it under a name."""
    if _in_hyperparameters(module, name):
        hyperparameters = module.hparams
        if isinstance(hyperparameters, Mapping):
            hyperparameters[name] = lr  # type: ignore[index]
        else:
            setattr(hyperparameters, name, lr)
    if hasattr(module, name) or not _in_hyperparameters(module, name):
        setattr(module, name, lr)


def _in_hyperparameters(module: Any, name: str) -> bool:
    found = getattr(module, "hparams", None)
    return found is not None and (
        name in found if isinstance(found, Mapping) else hasattr(found, name)
    )
