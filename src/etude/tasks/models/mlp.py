"""Multilayer perceptron: fully connected layers (Rumelhart, Hinton and Williams 1986)."""

from __future__ import annotations

from torch import Tensor, nn

from etude.errors import BadValueError
from etude.tasks.checks import flag, whole
from etude.tasks.models import parts
from etude.tasks.models.initialisation import initialise


class DenseLayer(nn.Module):
    """One hidden layer: y = dropout(activation(normalisation(W x + b))), plus x if residual.

    With a normalisation the bias is left out, since the normalisation has its own shift.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        *,
        activation: str,
        normalisation: str,
        residual: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, width, bias=normalisation == "none")
        self.norm = parts.normalisation(normalisation, width)
        self.activation = parts.activation(activation)
        self.dropout = parts.dropout(dropout)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs) to (N, width)."""
        y: Tensor = self.dropout(self.activation(self.norm(self.linear(x))))
        return x + y if self.residual else y


class DenseStack(nn.Sequential):
    """`depth` hidden layers of one width; shortcuts connect layers of equal width."""

    def __init__(
        self,
        inputs: int,
        *,
        depth: int,
        width: int,
        activation: str,
        normalisation: str,
        residual: bool,
        dropout: float,
    ) -> None:
        whole("depth", depth)
        whole("width", width)
        if flag("residual", residual) and depth < 2:
            raise BadValueError(
                f"residual=True with depth={depth} has no shortcut to add, since the first layer "
                "changes the width: give depth >= 2, or residual=False"
            )
        super().__init__(
            *(
                DenseLayer(
                    width if i else inputs,
                    width,
                    activation=activation,
                    normalisation=normalisation,
                    residual=residual and i > 0,
                    dropout=dropout,
                )
                for i in range(depth)
            )
        )


class MLP(nn.Module):
    """`layers`: the hidden layers; `head`: the linear output."""

    def __init__(self, layers: DenseStack, width: int, outputs: int) -> None:
        super().__init__()
        self.layers = layers
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, ...) to (N, outputs)."""
        y: Tensor = self.head(self.layers(x.flatten(1)))
        return y


def mlp(
    *,
    inputs: int,
    outputs: int,
    depth: int = 2,
    width: int = 128,
    activation: str = "relu",
    normalisation: str = "none",
    residual: bool = False,
    initialisation: str = "default",
    dropout: float = 0.0,
) -> nn.Module:
    """Build a multilayer perceptron: depth hidden layers of one width, and a linear head.

    Args:
        inputs: Numbers per sample; samples of any shape are flattened.
        outputs: Numbers per prediction, for instance the number of classes.
        depth: Hidden layers, at least 1.
        width: Units of each hidden layer.
        activation: A name in `parts.ACTIVATIONS`.
        normalisation: 'none', 'batch', 'layer' or 'group', before the activation.
        residual: Add each hidden layer's input to its output, from the second layer on.
        initialisation: A name in `initialisation.INITIALISATIONS`.
        dropout: The share of each hidden layer's outputs that training drops, in [0, 1).

    Returns:
        A module from (N, ...) to (N, outputs).

    Raises:
        BadValueError: If an option is out of bounds, or its name unknown.

    >>> import torch
    >>> mlp(inputs=64, outputs=10, depth=3, width=32)(torch.zeros(5, 8, 8)).shape
    torch.Size([5, 10])
    """
    whole("inputs", inputs)
    whole("outputs", outputs)
    layers = DenseStack(
        inputs,
        depth=depth,
        width=width,
        activation=activation,
        normalisation=normalisation,
        residual=residual,
        dropout=dropout,
    )
    return initialise(MLP(layers, width, outputs), initialisation)
