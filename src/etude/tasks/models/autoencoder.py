"""Autoencoder: a perceptron that passes its input through a narrow code.

Hinton and Salakhutdinov, "Reducing the dimensionality of data with neural networks", 2006.
"""

from __future__ import annotations

from torch import Tensor, nn

from etude.errors import BadValueError
from etude.tasks.checks import whole
from etude.tasks.models.initialisation import initialise
from etude.tasks.models.mlp import DenseStack


class Autoencoder(nn.Module):
    """An autoencoder with the modules `encoder`, `to_code`, `decoder` and `head`."""

    def __init__(
        self, encoder: DenseStack, decoder: DenseStack, *, inputs: int, width: int, code: int
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.to_code = nn.Linear(width, code)
        self.decoder = decoder
        self.head = nn.Linear(width, inputs)

    def encode(self, x: Tensor) -> Tensor:
        """Map (N, ...) to the code (N, code)."""
        y: Tensor = self.to_code(self.encoder(x.flatten(1)))
        return y

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, ...) to its reconstruction (N, inputs)."""
        y: Tensor = self.head(self.decoder(self.encode(x)))
        return y


def autoencoder(
    *,
    inputs: int,
    code: int = 8,
    depth: int = 2,
    width: int = 128,
    activation: str = "relu",
    normalisation: str = "none",
    residual: bool = False,
    initialisation: str = "default",
    dropout: float = 0.0,
) -> nn.Module:
    """Build an autoencoder: inputs -> depth layers -> code -> depth layers -> inputs.

    Args:
        inputs: Numbers per sample; samples of any shape are flattened.
        code: Numbers in the code, fewer than `inputs`.
        depth: Hidden layers on each side of the code, at least 1.
        width: Units of each hidden layer.
        activation: A name in `parts.ACTIVATIONS`, for the hidden layers.
        normalisation: 'none', 'batch', 'layer' or 'group', before the activation.
        residual: Add each hidden layer's input to its output, from each side's second layer on.
        initialisation: A name in `initialisation.INITIALISATIONS`.
        dropout: The share of each hidden layer's outputs that training drops, in [0, 1).

    Returns:
        A module from (N, ...) to (N, inputs).

    Raises:
        BadValueError: If an option is out of bounds, or its name unknown.

    >>> import torch
    >>> model = autoencoder(inputs=64, code=4)
    >>> model(torch.zeros(5, 64)).shape, model.encode(torch.zeros(5, 64)).shape
    (torch.Size([5, 64]), torch.Size([5, 4]))
    """
    whole("inputs", inputs)
    if whole("code", code) >= inputs:
        raise BadValueError(
            f"code={code} is not a bottleneck for {inputs} inputs: give code < {inputs}"
        )

    def side(inputs: int) -> DenseStack:
        return DenseStack(
            inputs,
            depth=depth,
            width=width,
            activation=activation,
            normalisation=normalisation,
            residual=residual,
            dropout=dropout,
        )

    model = Autoencoder(side(inputs), side(code), inputs=inputs, width=width, code=code)
    return initialise(model, initialisation)
