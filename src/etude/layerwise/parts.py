"""The parts of a model: its parameters with kind, depth, role, gates and axes.

A `Part` is plain data. Selectors and policies read parts and never a model, so that tests can use
hand-written parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from etude.errors import BadValueError

if TYPE_CHECKING:
    from torch import nn


KINDS = ("convolution", "linear", "recurrent", "embedding", "normalisation", "other")
"""The kinds of layer that a parameter can belong to."""

GATES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "LSTM": ("input", "forget", "cell", "output"),
        "GRU": ("reset", "update", "new"),
        "MultiheadAttention": ("query", "key", "value"),
    }
)
"""The named parts that torch keeps in one tensor, in torch's order along axis 0."""

PROJECTION = "projection"
"""The name of an LSTM's projection, a tensor of its own beside the gates."""


Role = Literal["", "input", "hidden", "output", "both", "direct"]
"""The role of a parameter. 'both': it reads the input in one use and produces the output in
another, such as an embedding tied to the head. 'direct': it does both in one use."""


@dataclass(frozen=True)
class Part:
    """One trainable parameter of a model.

    Attributes:
        name: Its dotted name.
        shape: Its shape.
        kind: The kind of its layer, one of `KINDS`.
        layer: The class of the module that holds it.
        bias: Whether it is added: a bias, or the shift of a normalisation.
        depth: The number of its layer, counted from the input, from 0.
        gates: Named row ranges along axis 0: (first, one past the last).
        aliases: Other names of the same tensor, if the model ties it.
        inward: The axis of its layer's input features; None if there is none.
        outward: The axis of its layer's output features.
        role: Its role; '' if it was not determined.
        applied: Whether it is applied as a matrix, a kernel or a table, not only added as a
            position embedding is.
        told: Whether the flow or names determine the role; False for a guess.
        places: Which of 'input', 'middle' and 'output' its layer is.
    """

    name: str
    shape: tuple[int, ...]
    kind: str = "other"
    layer: str = "Module"
    bias: bool = False
    depth: int = 0
    gates: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    inward: int | None = None
    outward: int | None = None
    role: Role = ""
    applied: bool = True
    told: bool = True
    places: frozenset[str] = frozenset()

    @property
    def names(self) -> tuple[str, ...]:
        """Its name and its aliases."""
        return (self.name, *self.aliases)

    @property
    def count(self) -> int:
        """The number of scalars in it."""
        total = 1
        for size in self.shape:
            total *= size
        return total

    @property
    def rows(self) -> int:
        """Its length along axis 0; 1 for a single number."""
        return self.shape[0] if self.shape else 1


def owner_of(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the layer that a parameter belongs to, and the parameter's name there."""
    path, _, leaf = name.rpartition(".")
    if ".parametrizations." in f".{name}":
        # torch's parametrizations keep the original below the layer that it belongs to.
        path, _, rest = name.rpartition("parametrizations.")
        path, leaf = path.rstrip("."), rest.partition(".")[0]
    return model.get_submodule(path), leaf


def kind_of(module: nn.Module) -> str:
    """Return the kind of a module; 'other' if its class is unknown.

    >>> from torch import nn
    >>> kind_of(nn.Conv2d(1, 2, 3)), kind_of(nn.GRU(2, 2)), kind_of(nn.RMSNorm(4))
    ('convolution', 'recurrent', 'normalisation')
    """
    kind: Any = type(module)
    return _kind_of_class(kind)


@cache
def _kind_of_class(kind: type) -> str:
    from torch import nn

    from etude.torch_internals import CONVOLUTIONS, RUNNING_NORMS

    kinds: tuple[tuple[str, tuple[type, ...]], ...] = (
        ("convolution", CONVOLUTIONS),
        ("linear", (nn.Linear, nn.Bilinear, nn.MultiheadAttention)),
        ("recurrent", (nn.RNNBase, nn.RNNCellBase)),
        ("embedding", (nn.Embedding, nn.EmbeddingBag)),
        ("normalisation", (*RUNNING_NORMS, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)),
    )
    for name, classes in kinds:
        if issubclass(kind, classes):
            return name
    if "Norm" in kind.__name__:  # the many RMSNorm and LayerNorm of models written elsewhere
        return "normalisation"
    return "linear" if kind.__name__ == "Conv1D" else "other"  # Conv1D: GPT-2's linear layer


def layer_count(parts: tuple[Part, ...]) -> int:
    """Return the number of layers that the parts form.

    Raises:
        BadValueError: If there is no part.
    """
    if not parts:
        raise BadValueError("the model has no trainable parameter: every requires_grad is False")
    return 1 + max(part.depth for part in parts)
