"""Which optimizers of one's own another process can import by their names."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from etude.optimizers.table import OWN


def importable(factory: object) -> bool:
    """Return whether an object is found under its name in a module other than the program.

    >>> from torch.optim import SGD
    >>> importable(SGD), importable(lambda groups, lr: SGD(groups, lr=lr))
    (True, False)
    """
    module = getattr(factory, "__module__", None)
    if not module or module == "__main__":
        return False
    found: object = sys.modules.get(module)
    for part in getattr(factory, "__qualname__", "").split("."):
        found = getattr(found, part, None)
    return found is factory


def own_factory(name: str) -> Callable[..., Any] | None:
    """Return the class or function of one's own behind a recipe's name, if it can be imported.

    >>> own_factory("adamw") is None
    True
    """
    found = OWN.get(name)
    return None if found is None or not importable(found[1]) else found[1]


def can_be_named(name: str) -> bool:
    """Return whether another process can build an optimizer from its name and what is importable.

    >>> can_be_named("adamw")
    True
    """
    return name not in OWN or own_factory(name) is not None
