"""A nested state as JSON and tensors: what a checkpoint is made of."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from etude.errors import StorageError

_MARK = "$"
"""Key of a node that JSON alone cannot hold; its value says of what kind it is."""


def flatten(tree: Any, *, copy: bool = True) -> tuple[Any, dict[str, Tensor]]:
    """Return (JSON value, tensors by name) of a tree of dicts, lists, tuples, numbers, tensors.

    Args:
        tree: What to take apart.
        copy: Whether every tensor has memory of its own; else it may be that of the tree's.

    Raises:
        StorageError: If a value is of a kind that a safe format cannot hold; it is named.

    >>> import torch
    >>> tree = {"step": 3, 0: (torch.ones(2), float("inf"), None)}
    >>> back = unflatten(*flatten(tree))
    >>> back["step"], back[0][1:], back[0][0].tolist()
    (3, (inf, None), [1.0, 1.0])
    """
    tensors: dict[str, Tensor] = {}

    def visit(node: Any, path: str) -> Any:
        if isinstance(node, Tensor):
            # A copy of its own: safetensors refuses memory that two names share.
            while path in tensors:  # {"a/b": x, "a": {"b": y}} spells one path twice
                path += "'"
            tensors[path] = node.detach().to("cpu", copy=copy).contiguous()
            return {_MARK: "tensor", "name": path}
        if node is None or isinstance(node, (bool, int, str)):
            return node
        if isinstance(node, float):
            return node if math.isfinite(node) else {_MARK: "float", "value": str(node)}
        if isinstance(node, dict):
            if all(isinstance(k, str) and k != _MARK for k in node):
                return {k: visit(v, f"{path}/{k}") for k, v in node.items()}
            pairs = [
                [visit(k, f"{path}#{i}"), visit(v, f"{path}/{k}")]
                for i, (k, v) in enumerate(node.items())
            ]
            return {_MARK: "dict", "items": pairs}
        if isinstance(node, tuple):
            return {_MARK: "tuple", "items": [visit(v, f"{path}/{i}") for i, v in enumerate(node)]}
        if isinstance(node, list):
            return [visit(v, f"{path}/{i}") for i, v in enumerate(node)]
        raise StorageError(
            f"the state at {path!r} is a {type(node).__name__}, which no safe format can hold: "
            "keep tensors, numbers, text, lists and mappings there"
        )

    return visit(tree, ""), tensors


def unflatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Rebuild the tree from what `flatten` returned."""
    if isinstance(value, list):
        return [unflatten(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(_MARK)
    if kind is None:
        return {k: unflatten(v, tensors) for k, v in value.items()}
    if kind == "tensor":
        return tensors[value["name"]]
    if kind == "float":
        return float(value["value"])
    if kind == "tuple":
        return tuple(unflatten(v, tensors) for v in value["items"])
    return {unflatten(k, tensors): unflatten(v, tensors) for k, v in value["items"]}
