"""Separates tensors that parameter groups share as a hyperparameter, before one is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

Where = tuple[str, int | None]
"""A key of a group and, for a value in a tuple such as betas, its index there."""


def own_values(optimizer: Optimizer, written: Iterable[tuple[dict[str, Any], Where]]) -> None:
    """Give every value that will be written in place a separate tensor.

    torch puts the same tensor of `SGD(..., lr=torch.tensor(0.1))` into every group, and also into
    groups that are added later: writing it for one group would change all. The first place that is
    written keeps the tensor, so that other code that holds it (a compiled step, the caller) sees
    the new value. Every other place gets a copy of the same value, type and device.

    Args:
        optimizer: The optimizer, whose groups and defaults are searched.
        written: The groups and the places in them that will be written.

    >>> import torch
    >>> groups = [{"params": [torch.zeros(1)]}, {"params": [torch.zeros(1)]}]
    >>> optimizer = torch.optim.SGD(groups, lr=torch.tensor(0.1))
    >>> own_values(optimizer, [(group, ("lr", None)) for group in optimizer.param_groups])
    >>> first, second = optimizer.param_groups
    >>> first["lr"] is second["lr"], second["lr"] is optimizer.defaults["lr"]
    (False, False)
    """
    kept: dict[int, tuple[int, Where]] = {}
    for group, where in written:
        value = get(group, where)
        if isinstance(value, Tensor):
            place = id(group), where
            if kept.setdefault(id(value), place) != place:
                own = value.detach().clone()
                put(group, where, own)
                kept[id(own)] = place
    if not kept:
        return
    copies: dict[int, Tensor] = {}  # places that are not written may share a tensor
    for holder in (*optimizer.param_groups, optimizer.defaults):
        for where in _places(holder):
            value = get(holder, where)
            if kept.get(id(value), (id(holder), where)) != (id(holder), where):
                put(holder, where, copies.setdefault(id(value), value.detach().clone()))


def get(group: dict[str, Any], where: Where) -> Any:
    """Return the current value at a place of a group."""
    key, inside = where
    return group[key] if inside is None else group[key][inside]


def put(group: dict[str, Any], where: Where, value: Any) -> None:
    """Put another object at a place of a group."""
    key, inside = where
    live = group[key]
    if inside is None:
        group[key] = value
    else:
        group[key] = type(live)((*live[:inside], value, *live[inside + 1 :]))


def write(group: dict[str, Any], where: Where, value: float) -> None:
    """Write a value, into a tensor in place, so that a compiled step is not compiled again.

    A tensor of whole numbers, such as `torch.tensor(1)`, would cut the value off: it is replaced.

    >>> import torch
    >>> group = {"lr": torch.tensor(1)}
    >>> write(group, ("lr", None), 0.5)
    >>> group["lr"]
    tensor(0.5000)
    """
    live = get(group, where)
    if isinstance(live, Tensor) and not live.is_floating_point():
        put(group, where, live.detach().float().fill_(value))
    elif isinstance(live, Tensor):
        live.fill_(value)
    else:
        put(group, where, value)


def _places(holder: dict[str, Any]) -> Iterator[Where]:
    """Yield the places of a group, or of the defaults, that hold a tensor as hyperparameter."""
    for key, value in holder.items():
        if isinstance(value, Tensor):
            yield key, None
        elif isinstance(value, tuple | list) and key != "params":
            yield from ((key, i) for i, item in enumerate(value) if isinstance(item, Tensor))
