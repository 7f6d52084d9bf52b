"""The blocks of each tensor that share a second moment in Adam-mini: neurons, tokens, heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from etude.layerwise.model_parts import parts_of
from etude.layerwise.parts import Part, owner_of

if TYPE_CHECKING:
    from torch import nn

QUERIES = frozenset(("query", "q", "q_proj", "q_lin", "query_proj", "to_q", "wq"))
KEYS = frozenset(("key", "k", "k_proj", "k_lin", "key_proj", "to_k", "wk"))
"""Names of the layers, or parameters, that produce the queries and the keys of attention."""

FUSED = frozenset(("c_attn", "qkv", "qkv_proj", "query_key_value", "Wqkv", "in_proj"))
"""Names of those that produce queries, keys and values at once."""

WIDTHS = ("head_dim", "attention_head_size", "head_size")
COUNTS = ("num_heads", "num_attention_heads", "heads", "n_heads", "n_head", "nhead")
"""Attributes of attention, or of its `config`: the numbers in a head, and the heads of a query."""


class Blocks(NamedTuple):
    """How a tensor is divided into blocks.

    Attributes:
        axis: The axis along which blocks lie.
        number: The number of equal stretches of the axis; None takes each index alone.
    """

    axis: int = 0
    number: int | None = None


def blocks_of(model: nn.Module) -> dict[str, Blocks]:
    """Return how each trainable parameter is divided, by name.

    - Queries and keys: one block for each head. The heads are read from the attributes of the
      attention or of its `config`, such as `num_heads` or `head_dim`. Without these, and where
      queries, keys and values of fewer heads are one tensor, one block for each neuron.
    - Weights of a normalisation: one block.
    - Embeddings: one block for each token.
    - All other matrices and kernels: one block for each output; of a tensor that belongs to no
      known layer, for each index along its first axis longer than 1.
    - Biases: one block for each entry.

    Args:
        model: The network.

    Source: Zhang et al. 2024, arXiv:2406.16793, algorithm 3.

    >>> from torch import nn
    >>> found = blocks_of(nn.MultiheadAttention(8, 2))
    >>> found["in_proj_weight"].number, found["out_proj.weight"].number
    (6, None)
    """
    return {part.name: _blocks(model, part) for part in parts_of(model)}


def split_blocks(groups: Sequence[dict[str, Any]], model: nn.Module) -> list[dict[str, Any]]:
    """Return parameter groups in which all tensors are divided alike, with 'axis' and 'blocks'.

    A group that has one of the two is left as it is.
    """
    found = blocks_of(model)
    own = {id(p): found[name] for name, p in model.named_parameters() if name in found}
    made = []
    for group in groups:
        if "axis" in group or "blocks" in group:
            made.append(group)
            continue
        ways = [own.get(id(p), Blocks()) for p in group["params"]]
        for way in dict.fromkeys(ways):
            chosen = [p for p, one in zip(group["params"], ways, strict=True) if one == way]
            made.append({**group, "params": chosen, "axis": way.axis, "blocks": way.number})
    return made


def _blocks(model: nn.Module, part: Part) -> Blocks:
    if part.bias:
        return Blocks()
    if part.kind == "normalisation":
        return Blocks(0, 1)
    if part.kind == "other":
        return Blocks(next((axis for axis, size in enumerate(part.shape) if size > 1), 0))
    axis = 0 if part.kind == "embedding" or part.outward is None else part.outward
    return Blocks(axis, _heads(model, part, part.shape[axis]) if len(part.shape) > 1 else None)


def _heads(model: nn.Module, part: Part, outputs: int) -> int | None:
    """Return the number of blocks of a tensor that makes queries or keys; None for any other."""
    holder, leaf = owner_of(model, part.name)
    layer = leaf.removesuffix("_weight")
    if layer == "weight":
        path = part.name.partition(".parametrizations.")[0].removesuffix(".weight")
        above, _, layer = path.rpartition(".")
        holder = model.get_submodule(above)
    if layer not in QUERIES | KEYS | FUSED:
        return None
    heads, width = _number(holder, COUNTS), _number(holder, WIDTHS)
    if layer in FUSED:
        count = 3 * heads if heads else 0
        fits = width is None or count * width == outputs
    else:
        count, fits = outputs // width if width else heads or 0, True
    return count if count and fits and outputs % count == 0 else None


def _number(holder: nn.Module, names: Sequence[str]) -> int | None:
    """Return the first of some attributes of a module, or of its configuration, that is a count."""
    for place in (holder, getattr(holder, "config", None)):
        for name in names:
            value = getattr(place, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None
