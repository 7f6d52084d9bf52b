"""What a network and a loss hold, to tell whether a forward pass changed any of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import lru_cache, partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor, nn

from etude.torch_internals import forward_hooks, own_buffers, own_parameters, version_of

MOST, DEEP, LONG = 20_000, 4, 1_000
"""The most values that are looked at, how deep, and the longest collection whose items are."""

_STATELESS = ("torch.nn.", "etude.", "builtins.", "abc.", "typing.")
"""Where the classes of modules come from whose forward pass changes nothing in evaluation mode."""

_CALLS = (FunctionType, MethodType, partial)
"""What a module may be given to call, such as an activation, or a forward pass of the user's."""

_NUMBERS = (int, float, complex, str, bytes)
"""What is compared by its value: a module may write the same one in every forward pass."""

_COLLECTIONS = (list, tuple, set, frozenset, deque)

_OURS = ("torch.", "etude.")
"""Where objects come from that hold nothing of the user's: hooks of onlookers, compiled calls."""

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
"""Attributes that torch gives to every module."""

Held = tuple[object, object]
"""A value, which is compared by its identity, and a mark of it, which is compared by its value."""


class HeldValues:
    """The values that modules and functions hold, as they are now.

    These are the parameters, buffers and attributes of every module, the attributes of other
    objects, the items of lists, tuples, sets and mappings, and what functions and hooks keep in
    their closures, arguments and objects. A change of a tensor in place is seen, as is one of an
    array of NumPy. What a program keeps elsewhere, in a global variable or a file, is not.

    Args:
        roots: Modules, functions, or other objects.

    >>> class Counts(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.seen = []
    >>> model = nn.Sequential(Counts(), nn.Linear(1, 1))
    >>> held = HeldValues(model)
    >>> held.changed()
    False
    >>> model[0].seen.append(1)
    >>> held.changed()
    True
    """

    def __init__(self, *roots: Any) -> None:
        self._roots = roots
        self._before = self._values()

    def changed(self) -> bool:
        """Return whether any value was replaced, or changed in place, since the beginning."""
        now = self._values()
        return len(now) != len(self._before) or not all(map(_is_same, now, self._before))

    def _values(self) -> list[Held]:
        found: list[Held] = []
        seen: set[int] = set()
        for root in self._roots:
            if not isinstance(root, nn.Module):
                _add(root, found, seen, DEEP)
                continue
            for module in root.modules():
                for value in _held_by(module):
                    _add(value, found, seen, DEEP)
        return found


def is_stateless(module: nn.Module) -> bool:
    """Return whether a module's forward pass changes nothing, as far as its class tells.

    That is so in evaluation mode for torch's own layers and Etude's, if no hook is attached.

    >>> layer = nn.Linear(1, 1)
    >>> is_stateless(layer), is_stateless(layer.eval())
    (False, True)
    """
    kind: Any = type(module)  # mypy takes a class of modules for one that has no hash
    return not module.training and _is_ours(kind) and not any(forward_hooks(module))


@lru_cache(maxsize=1_000)
def _is_ours(kind: Any) -> bool:
    """Return whether a class, and all that it derives from, are torch's layers or Etude's."""
    return all(f"{base.__module__}.".startswith(_STATELESS) for base in kind.__mro__)


def _held_by(module: nn.Module) -> list[Any]:
    """Return a module's parameters, buffers, hooks, and the attributes that are its own."""
    own = [value for name, value in vars(module).items() if name not in _OF_EVERY_MODULE]
    if is_stateless(module):
        return [value for value in own if isinstance(value, _CALLS)]
    return [own_parameters(module), own_buffers(module), *forward_hooks(module), *own]


def _is_same(one: Held, other: Held) -> bool:
    return one[0] is other[0] and (one[1] is other[1] or one[1] == other[1])


def _add(value: Any, found: list[Held], seen: set[int], depth: int) -> None:
    """Add a value, and what it holds."""
    if isinstance(value, _NUMBERS):
        found.append((type(value), value))
        return
    if id(value) in seen or len(found) >= MOST:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        found.append((value, 0 if value.is_inference() else version_of(value)))
    elif isinstance(value, np.ndarray):
        found.append((value, None if value.dtype == object else hash(value.tobytes())))
    elif isinstance(value, tuple):
        found.append((type(value), len(value)))
    else:
        length = len(value) if isinstance(value, (Mapping, *_COLLECTIONS)) else 0
        found.append((value, length))
    if depth:
        for item in _items(value):
            _add(item, found, seen, depth - 1)


def _items(value: Any) -> Iterable[Any]:
    """Return what an object holds."""
    if isinstance(value, (Tensor, np.ndarray, nn.Module, ModuleType, type)) or value is None:
        return ()
    if isinstance(value, Mapping):
        return value.values() if len(value) <= LONG else ()
    if isinstance(value, _COLLECTIONS):
        return value if len(value) <= LONG else ()
    if isinstance(value, MethodType):
        return value.__self__, value.__func__
    if isinstance(value, partial):
        return value.func, value.args, value.keywords
    if _module_of(value).startswith(_OURS):
        return ()
    inside = _enclosed(value) if isinstance(value, FunctionType) else ()
    return *inside, *getattr(value, "__dict__", {}).values()


def _enclosed(function: FunctionType) -> list[Any]:
    """Return the values of a function's closure, and its defaults."""
    found = list(function.__defaults__ or ())
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # a cell may be empty
            found.append(cell.cell_contents)
    return found


def _module_of(value: Any) -> str:
    """Return the module that a function, or an object's class, was defined in, with a dot."""
    owner = value if isinstance(value, FunctionType) else type(value)
    return f"{owner.__module__}."
