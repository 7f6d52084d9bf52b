"""What a model is made of, parameter by parameter: kind, depth, role, gates, axes.

A `Part` is plain data. Selectors and policies read parts and never a model, so that the same
rules can be tried on hand-written parts.
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
"""What a parameter is for: 'both' in two uses, reading the input in one and making the output in
the other, as an embedding tied to the head; 'direct' in one, from the input to the output."""


@dataclass(frozen=True)
class Part:
    """One trainable parameter of a model.

    Attributes:
        name: Its dotted name.
        shape: Its shape.
        kind: The kind of its layer, one of `KINDS`.
        layer: The class of the module that holds it.
        bias: Whether it is added: a bias, or the shift of a normalisation.
        depth: The layer it belongs to, counted from the input, from 0.
        gates: Named row ranges along axis 0: (first, one past the last).
        aliases: Other names of the same tensor, where the model ties it.
        inward: The axis that its layer's input meets, None for what has no such axis.
        outward: The axis that makes its layer's output.
        role: What it is for; '' where nobody has asked.
        applied: Whether it is applied as a matrix, a kernel or a table, and not only added, as a
            position's embedding is.
        told: Whether flow or names tell the role; False for a guess.
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
        """How many numbers it holds."""
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
    """Return the kind of a module, 'other' where its class does not tell.

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
    """Return how many layers the parts form.

    Raises:
        BadValueError: If there is no part.
    """
    if not parts:
        raise BadValueError("the model has no trainable parameter: every requires_grad is False")
    return 1 + max(part.depth for part in parts)
