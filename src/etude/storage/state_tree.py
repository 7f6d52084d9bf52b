"""Converts a nested state to JSON and tensors, and back, for checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from etude.errors import StorageError, kind_of
from etude.memory_layout import PLAIN, Place, Rebuilt, blocks
from etude.torch_internals import negated_view, sparse_parts

_MARK = "$"
"""The key of a node that JSON cannot represent directly; its value is the kind of the node."""


def copied(content: Tensor) -> Tensor:
    """Return a copy on the CPU, in memory without gaps."""
    return torch.empty(content.shape, dtype=content.dtype).copy_(content)


def shared(content: Tensor) -> Tensor:
    """Return a tensor on the CPU: the same one if it is there already."""
    return content.cpu()


def flatten(tree: Any, keep: Callable[[Tensor], Tensor] = copied) -> tuple[Any, dict[str, Tensor]]:
    """Return (JSON value, tensors by name) of a tree of dicts, lists, tuples, numbers, tensors.

    The value also describes the layout of the tensors in memory: their strides, the memory they
    share, and their offset from an aligned address. Shared memory is returned only once.

    Args:
        tree: The tree.
        keep: Brings a tensor to the CPU: `copied`, `shared`, or another way.

    Raises:
        StorageError: If a value has a type that a safe format cannot hold; the message names it.

    >>> import torch
    >>> tree = {"step": 3, 0: (torch.ones(2), float("inf"), None), "q": torch.ones(2, 3).T}
    >>> back = unflatten(*flatten(tree))
    >>> back["step"], back[0][1:], back[0][0].tolist(), back["q"].stride()
    (3, (inf, None), [1.0, 1.0], (1, 3))
    """
    found = _Flat()
    value = found.visit(tree, "")
    return value, found.contents(keep)


class _Flat:
    """Collects the tensors of a tree and their JSON nodes, which are completed at the end."""

    def __init__(self) -> None:
        self.places: list[Place] = []
        self.nodes: dict[int, tuple[str, dict[str, Any]]] = {}
        self.names: set[str] = set()

    def visit(self, node: Any, path: str) -> Any:
        if isinstance(node, Tensor):
            return self.tensor(node, path)
        if node is None or isinstance(node, (bool, int, str)):
            return node
        if isinstance(node, float):
            return node if math.isfinite(node) else {_MARK: "float", "value": str(node)}
        if isinstance(node, dict):
            if all(isinstance(k, str) and k != _MARK for k in node):
                return {k: self.visit(v, f"{path}/{k}") for k, v in node.items()}
            pairs = [
                [self.visit(k, f"{path}#{i}"), self.visit(v, f"{path}/{k}")]
                for i, (k, v) in enumerate(node.items())
            ]
            return {_MARK: "dict", "items": pairs}
        if isinstance(node, (tuple, list)):
            items = [self.visit(v, f"{path}/{i}") for i, v in enumerate(node)]
            return items if isinstance(node, list) else {_MARK: "tuple", "items": items}
        raise StorageError(
            f"the state at {path!r} is {kind_of(node)}, which no safe format can hold: "
            "keep tensors, numbers, text, lists and mappings there"
        )

    def tensor(self, tensor: Tensor, path: str) -> dict[str, Any]:
        tensor = tensor.detach()
        if tensor.layout is torch.sparse_coo:
            indices, values = sparse_parts(tensor)
            return {
                _MARK: "sparse",
                "indices": self.tensor(indices, f"{path}/indices"),
                "values": self.tensor(values, f"{path}/values"),
                "shape": list(tensor.shape),
                "coalesced": tensor.is_coalesced(),
            }
        if tensor.layout is not torch.strided or tensor.is_meta or type(tensor) is not Tensor:
            kind = "meta" if tensor.is_meta else f"{type(tensor).__name__}, {tensor.layout}"
            raise StorageError(
                f"the tensor at {path!r} ({kind}) has no memory that a safe format can hold: "
                "keep plain or sparse_coo tensors there"
            )
        while path in self.names:  # {"a/b": x, "a": {"b": y}} contains the same path twice
            path += "'"
        self.names.add(path)
        node: dict[str, Any] = {_MARK: "tensor", "name": path}
        # Conjugation and negation that torch has deferred stay deferred.
        if tensor.is_conj():
            node["conj"], tensor = True, tensor.conj()
        if tensor.is_neg():
            node["neg"], tensor = True, negated_view(tensor)
        self.places.append(Place.of(tensor))
        self.nodes[id(self.places[-1])] = path, node
        return node

    def contents(self, keep: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Complete the nodes with the tensors' layout; return the memory to save, by name."""
        found: dict[str, Tensor] = {}
        for block in blocks(self.places):
            name, _ = self.nodes[id(block.places[0])]
            for place in block.places:
                _, node = self.nodes[id(place)]
                node |= {"name": name, **block.layout(place)}
            found[name] = _plain(keep(block.content))
        return found


def _plain(content: Tensor) -> Tensor:
    """Return a tensor of a type that files can hold: the bytes of any other."""
    if content.dtype in PLAIN:
        return content
    row = torch.empty(content.numel(), dtype=content.dtype)
    row.view(content.shape).copy_(content)
    return row.view(torch.uint8)


def unflatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Rebuild the tree from the result of `flatten`; tensors get new memory of the same layout.

    Raises:
        StorageError: If the two do not belong together.
    """
    try:
        return _rebuild(value, Rebuilt(tensors))
    except StorageError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        raise StorageError(f"the state is damaged: {error}") from error


def _rebuild(value: Any, tensors: Rebuilt) -> Any:
    if isinstance(value, list):
        return [_rebuild(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(_MARK)
    if kind is None:
        return {k: _rebuild(v, tensors) for k, v in value.items()}
    if kind == "tensor":
        found = tensors.tensor(value["name"], value)
        if value.get("neg"):
            found = negated_view(found)
        return found.conj() if value.get("conj") else found
    if kind == "sparse":
        indices, values = (_rebuild(value[key], tensors) for key in ("indices", "values"))
        return torch.sparse_coo_tensor(
            indices, values, value["shape"], is_coalesced=value["coalesced"], check_invariants=True
        )
    if kind == "float":
        return float(value["value"])
    if kind == "tuple":
        return tuple(_rebuild(v, tensors) for v in value["items"])
    return {_rebuild(k, tensors): _rebuild(v, tensors) for k, v in value["items"]}


def tensors_in(tree: Any) -> Iterator[Tensor]:
    """Yield every tensor of a tree.

    >>> sum(t.numel() for t in tensors_in({"a": [torch.ones(2), 3], "b": (torch.ones(4),)}))
    6
    """
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        for inner in tree.values():
            yield from tensors_in(inner)
    elif isinstance(tree, (list, tuple)):
        for inner in tree:
            yield from tensors_in(inner)
