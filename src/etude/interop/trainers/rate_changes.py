"""Tells from its code whether a callback changes the learning rate; nothing of it is run."""

from __future__ import annotations

import dis
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType
from typing import Any

from etude.errors import BadValueError

RATES = {"lr", "learning_rate", "initial_lr"}


def changes_rate(callback: object, base: type) -> bool:
    """Return whether a method of a callback assigns a rate to an optimizer or a scheduler.

    It does if it stores under 'lr' (in a table, as an attribute or by `setattr` or `update`) where
    it also names `param_groups`, or replaces the rates or the position of a scheduler.

    Args:
        callback: The callback.
        base: The class of the trainer's library that all callbacks derive from.

    >>> class Falls:
    ...     def on_step_end(self, optimizer):
    ...         for group in optimizer.param_groups:
    ...             group["lr"] *= 0.5
    >>> changes_rate(Falls(), object), changes_rate(object(), object)
    (True, False)
    """
    return any(map(_stores_rate, _codes(type(callback), base)))


def refuse(callbacks: Iterable[object], base: type, owner: str) -> None:
    """Raise for a callback that changes the rate.

    Raises:
        BadValueError: The message names its class.
    """
    for callback in callbacks:
        if changes_rate(callback, base):
            name = type(callback).__name__
            raise BadValueError(
                f"the callback {name} of {owner} changes the learning rate while it trains, which "
                "a tuning would not follow: leave it out while tuning, and write what it does as a "
                "schedule, as in tune(..., schedule=\"warmup('5%') >> cosine()\")"
            )


def _codes(kind: type, base: type) -> Iterator[CodeType]:
    for one in kind.__mro__:
        if one is base or one is object:
            return
        for member in vars(one).values():
            inner = getattr(member, "__func__", member)
            if isinstance(inner, FunctionType):
                yield from _nested(inner.__code__)


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)


def _stores_rate(code: CodeType) -> bool:
    names = set(code.co_names)
    constants = _texts(code.co_consts)
    instructions = list(dis.get_instructions(code))
    stores = any(one.opname == "STORE_SUBSCR" for one in instructions)
    stores_attribute = any(
        one.opname == "STORE_ATTR" and one.argval in ("base_lrs", "last_epoch")
        for one in instructions
    )
    updates = bool(names & {"update", "setattr", "fill_", "mul_", "copy_"})
    in_groups = bool(constants & RATES) and "param_groups" in names
    return (in_groups and (stores or updates)) or stores_attribute


def _texts(values: Iterable[Any]) -> set[str]:
    found: set[str] = set()
    for value in values:
        if isinstance(value, str):
            found.add(value)
        elif isinstance(value, tuple):
            found |= _texts(value)
    return found
