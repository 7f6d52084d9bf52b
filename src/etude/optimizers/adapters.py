"""Low-rank adapters (LoRA) among the parameters of a model: pairs A, B with W + scaling · B A.

The pairs are found by their names, `lora_A` and `lora_B` as peft and loralib call them
(`lora_embedding_A` and `lora_embedding_B` at an embedding), in any place of a dotted name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

FIRST = ("lora_A", "lora_embedding_A")
"""Names of the matrix that reads the input, which begins with random weights."""

SECOND = ("lora_B", "lora_embedding_B")
"""Names of the matrix that produces the change, which begins with zeros."""


@dataclass(frozen=True)
class Adapter:
    """One low-rank adapter of a layer: W + scaling · B A.

    Attributes:
        name: The dotted name of A.
        rank: The number of rows of A.
        inputs: The number of columns of A: the inputs of the layer, of a kernel as a matrix.
        scaling: The factor of B A: alpha / rank, or alpha / sqrt(rank) with rank stabilisation.
        scalars: The number of scalars in A and B.
    """

    name: str
    rank: int
    inputs: int
    scaling: float
    scalars: int

    @property
    def alpha(self) -> float:
        """Scaling · rank: the alpha of an adapter without rank stabilisation."""
        return self.scaling * self.rank


def is_second(name: str) -> bool:
    """Return whether a parameter is the matrix B of an adapter, by its dotted name.

    >>> is_second("layers.0.query.lora_B.default.weight"), is_second("layers.0.query.weight")
    (True, False)
    """
    return any(piece in SECOND for piece in name.split("."))


def adapters(model: nn.Module) -> tuple[Adapter, ...]:
    """Return the adapters of a model that are trained, in the model's order.

    The scaling is read from the layer's attribute `scaling`, a number or a table of numbers by the
    name of the adapter; a layer without one has scaling 1.

    Args:
        model: The network.

    >>> from torch import nn
    >>> layer = nn.Linear(8, 4).requires_grad_(False)
    >>> layer.lora_A, layer.lora_B = nn.Linear(8, 2, bias=False), nn.Linear(2, 4, bias=False)
    >>> layer.scaling = 4.0
    >>> adapters(layer)
    (Adapter(name='lora_A.weight', rank=2, inputs=8, scaling=4.0, scalars=24),)
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    modules = dict(model.named_modules())
    found = []
    for name, first in parameters.items():
        pieces = name.split(".")
        kind = next((k for k in FIRST if k in pieces), None)
        if kind is None or first.ndim < 2:
            continue
        at = pieces.index(kind)
        other = ".".join([*pieces[:at], kind[:-1] + "B", *pieces[at + 1 :]])
        second = parameters.get(other)
        if second is None:
            continue
        owner = modules.get(".".join(pieces[:at]))
        called = pieces[at + 1] if len(pieces) > at + 1 else ""
        scaling = _scaling(getattr(owner, "scaling", None), called)
        rank, scalars = first.shape[0], first.numel() + second.numel()
        found.append(Adapter(name, rank, first.numel() // rank, scaling, scalars))
    return tuple(found)


def _scaling(value: Any, name: str) -> float:
    if isinstance(value, Mapping):
        value = value.get(name)
    known = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if known and math.isfinite(value) and value > 0 else 1.0


def mostly(model: nn.Module) -> tuple[Adapter, ...]:
    """Return the adapters of a model if at least half of its trained scalars are theirs, else ().

    A head that is trained beside them usually has fewer scalars. If the embedding is trained in
    full too, the rate of full training counts.
    """
    found = adapters(model)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return found if 2 * sum(one.scalars for one in found) >= trained else ()


def middle(found: tuple[Adapter, ...]) -> tuple[float, float, float]:
    """Return the medians of rank, alpha and inputs of some adapters."""
    return (
        median(one.rank for one in found),
        median(one.alpha for one in found),
        median(one.inputs for one in found),
    )
