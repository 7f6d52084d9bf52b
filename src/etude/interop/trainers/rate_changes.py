"""Tells from its code whether a callback changes the learning rate; nothing of it is run."""

from __future__ import annotations

import dis
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType

from etude.errors import BadValueError

RATES = {"lr", "learning_rate", "initial_lr"}
SCHEDULERS = {"lr_scheduler", "scheduler"}
IN_PLACE = {"fill_", "mul_", "copy_", "sub_", "div_"}


def changes_rate(callback: object, base: type) -> bool:
    """Return whether a method of a callback assigns a rate to an optimizer or a scheduler.

    It does if it stores a rate in a parameter group, replaces the base rates of a scheduler, or
    lets one step. What a function that it calls does is not seen.

    Args:
        callback: The callback.
        base: The class of the trainer's library that all callbacks derive from.

    >>> class Falls:
    ...     def on_step_end(self, optimizer):
    ...         for group in optimizer.param_groups:
    ...             group["lr"] *= 0.5
    >>> class Reads:
    ...     def on_step_end(self, optimizer, logs):
    ...         logs["lr"] = [group["lr"] for group in optimizer.param_groups]
    >>> changes_rate(Falls(), object), changes_rate(Reads(), object)
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
    listed = [one for one in dis.get_instructions(code) if one.opname not in ("RESUME", "NOP")]
    groups = _group_variables(listed)
    for place, one in enumerate(listed):
        before = listed[max(0, place - 4) : place]
        after = listed[place + 1] if place + 1 < len(listed) else None
        if one.opname == "STORE_ATTR" and one.argval == "base_lrs":
            return True
        if one.argval == "step" and before and before[-1].argval in SCHEDULERS:
            return True
        if one.argval == "update" and before and _names(before[-1]) & groups:
            return True
        if one.argval in RATES and after is not None and _is_group(before, groups):
            stored = after.opname in ("STORE_SUBSCR", "COPY", "DUP_TOP_TWO")
            later = listed[place + 2] if place + 2 < len(listed) else None
            if stored or (later is not None and later.argval in IN_PLACE):
                return True
    return False


def _group_variables(listed: list[dis.Instruction]) -> set[str]:
    """Return the variables that a parameter group, or a value beside it, is put into."""
    found: set[str] = set()
    for place, one in enumerate(listed):
        if one.argval != "param_groups":
            continue
        rest = listed[place + 1 :]
        stores = next((i for i, x in enumerate(rest) if x.opname.startswith("STORE")), len(rest))
        for store in rest[stores:]:
            if not store.opname.startswith("STORE_FAST"):
                break
            found |= _names(store)
    return found


def _is_group(before: list[dis.Instruction], groups: set[str]) -> bool:
    """Return whether what was just loaded is a parameter group."""
    if not before:
        return False
    subscript = before[-1].opname.startswith("BINARY_")
    return (subscript and any(one.argval == "param_groups" for one in before)) or (
        before[-1].opname.startswith("LOAD_") and bool(_names(before[-1]) & groups)
    )


def _names(one: dis.Instruction) -> set[str]:
    values = one.argval if isinstance(one.argval, tuple) else (one.argval,)
    return {value for value in values if isinstance(value, str)}
