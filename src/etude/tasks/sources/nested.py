"""Tensors in nested tuples, lists and mappings: what is in them, and others put in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence


def tensors_of(tree: Any) -> Iterator[Tensor]:
    """Yield every tensor of a tree, in order.

    >>> import torch
    >>> [t.item() for t in tensors_of({"a": torch.tensor(1), "b": (torch.tensor(2), None)})]
    [1, 2]
    """
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for part in tree.values():
            yield from tensors_of(part)
    elif isinstance(tree, (tuple, list)):
        for part in tree:
            yield from tensors_of(part)


def mapped(tree: Any, change: Callable[[Any], Any]) -> Any:
    """Return a tree of the same shape, with another value in place of each leaf.

    A list becomes a tuple, as in a batch of tensors; a mapping becomes a dict. A packed sequence,
    whose tensors have no common axis, is a leaf.

    >>> mapped({"a": 1, "b": [2, 3]}, lambda x: 10 * x)
    {'a': 10, 'b': (20, 30)}
    """
    if isinstance(tree, Mapping):
        return {str(key): mapped(part, change) for key, part in tree.items()}
    if isinstance(tree, PackedSequence):
        return change(tree)
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(mapped(part, change) for part in tree))
    if isinstance(tree, (tuple, list)):
        return tuple(mapped(part, change) for part in tree)
    return change(tree)
