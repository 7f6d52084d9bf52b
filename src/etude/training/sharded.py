"""Tensors of which each process keeps a part: torch's DTensor, recognised without loading it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor


def is_sharded(value: Any) -> bool:
    """Return whether a value is a tensor of which this process has a part.

    >>> import torch
    >>> is_sharded(torch.zeros(2)), is_sharded(1.0)
    (False, False)
    """
    return isinstance(value, Tensor) and hasattr(value, "full_tensor")


def own_part(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor, which shares its memory; else the tensor itself."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def whole(tensor: Tensor) -> Tensor:
    """Return the whole of a tensor; every process must call it."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def with_tensors(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Return nested mappings, lists and tuples with every tensor changed, in their order.

    >>> import torch
    >>> with_tensors({"a": [torch.ones(2), "text"]}, lambda t: t.sum().item())
    {'a': [2.0, 'text']}
    """
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: with_tensors(part, change) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(with_tensors(part, change) for part in value)
    return value
