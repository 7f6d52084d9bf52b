"""Hooks that do not keep the watch alive, and that a copy of the model does not carry along."""

from __future__ import annotations

import weakref
from typing import Any

import torch


def inert(*args: Any, **kwargs: Any) -> None:
    """Do nothing: stands for a hook in a copied or pickled model."""


def _return_inert() -> Any:
    return inert


class Hook:
    """Calls a method of an object as long as the object lives.

    `copy.deepcopy` and pickle turn it into a function that does nothing, so that an averaged copy
    of a watched model is not watched, and a saved one holds nothing of the watch.

    Args:
        owner: The object, held weakly.
        method: The method's name.
    """

    def __init__(self, owner: object, method: str) -> None:
        self._owner, self._method = weakref.ref(owner), method

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Call the method, whose result is dropped; nothing while torch compiles the model."""
        if torch.compiler.is_compiling():
            return
        owner = self._owner()
        if owner is not None:
            getattr(owner, self._method)(*args, **kwargs)

    def __deepcopy__(self, memo: Any) -> Any:
        return inert

    def __reduce__(self) -> Any:
        return _return_inert, ()
