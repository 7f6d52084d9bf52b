"""Convolutional network: convolutions and pooling, then linear layers (LeCun et al. 1998)."""

from __future__ import annotations

from torch import Tensor, nn

from etude.tasks.checks import flag, whole
from etude.tasks.models import parts
from etude.tasks.models.initialisation import initialise
from etude.tasks.models.mlp import DenseLayer


class ConvLayer(nn.Module):
    """y = pool(dropout(activation(normalisation(K * x) + shortcut(x)))), a 3×3 convolution.

    With residual=True the shortcut is the input, or a 1×1 convolution of it if the number of
    channels changes.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        *,
        pool: bool,
        activation: str,
        normalisation: str,
        residual: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, width, 3, padding=1, bias=normalisation == "none")
        self.norm = parts.normalisation(normalisation, width, axes=2)
        self.shortcut: nn.Module | None = None
        if residual:
            self.shortcut = nn.Identity() if inputs == width else nn.Conv2d(inputs, width, 1)
        self.activation = parts.activation(activation)
        self.dropout = parts.dropout(dropout)
        self.pool = nn.MaxPool2d(2) if pool else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, width, H, W), or half of H and W with pooling."""
        y: Tensor = self.norm(self.conv(x))
        if self.shortcut is not None:
            y = y + self.shortcut(x)
        y = self.pool(self.dropout(self.activation(y)))
        return y


class CNN(nn.Module):
    """`convs`: the convolutional layers; `dense`: one hidden linear layer; `head`: the output."""

    def __init__(self, convs: nn.Sequential, dense: DenseLayer, outputs: int) -> None:
        super().__init__()
        self.convs = convs
        self.dense = dense
        self.head = nn.Linear(dense.linear.out_features, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, size, size) to (N, outputs)."""
        # On some processors the kernels for few channels in channels-last layout are faulty.
        y: Tensor = self.head(self.dense(self.convs(x.contiguous()).flatten(1)))
        return y


def convolutions(
    *,
    channels: int,
    size: int,
    depth: int,
    width: int,
    activation: str,
    normalisation: str,
    residual: bool,
    dropout: float,
) -> tuple[nn.Sequential, int]:
    """Return convolutional layers, and how many numbers they make of an image.

    Convolution i has width · 2^(poolings before it) channels; a pooling follows each while at
    least 4 × 4 pixels are left.

    Raises:
        BadValueError: If an option is out of bounds, or its name unknown.

    >>> options = {"activation": "relu", "normalisation": "none", "residual": False, "dropout": 0}
    >>> convolutions(channels=3, size=16, depth=2, width=4, **options)[1]
    128
    """
    inputs = whole("channels", channels)
    side = whole("size", size, least=2)
    whole("depth", depth)
    filters = whole("width", width)
    flag("residual", residual)
    layers = []
    for _ in range(depth):
        pool = side >= 4
        layers.append(
            ConvLayer(
                inputs,
                filters,
                pool=pool,
                activation=activation,
                normalisation=normalisation,
                residual=residual,
                dropout=dropout,
            )
        )
        inputs = filters
        if pool:
            side, filters = side // 2, filters * 2
    return nn.Sequential(*layers), inputs * side * side


def cnn(
    *,
    channels: int,
    size: int,
    outputs: int,
    depth: int = 2,
    width: int = 16,
    hidden: int = 64,
    activation: str = "relu",
    normalisation: str = "none",
    residual: bool = False,
    initialisation: str = "default",
    dropout: float = 0.0,
) -> nn.Module:
    """Build a convolutional network with one hidden linear layer.

    Convolution i has width · 2^(poolings before it) channels; a pooling follows each while at
    least 4 × 4 pixels are left.

    Args:
        channels: Channels of an image.
        size: Pixels along each side of an image, at least 2.
        outputs: Numbers per prediction, for instance the number of classes.
        depth: Convolutions, at least 1.
        width: Channels of the first convolution.
        hidden: Units of the hidden linear layer.
        activation: A name in `parts.ACTIVATIONS`.
        normalisation: 'none', 'batch', 'layer' or 'group', before each activation.
        residual: Add each convolution's input to its output (a 1×1 convolution of it where the
            number of channels changes).
        initialisation: A name in `initialisation.INITIALISATIONS`.
        dropout: The share of each hidden layer's outputs that training drops, in [0, 1).

    Returns:
        A module from (N, channels, size, size) to (N, outputs).

    Raises:
        BadValueError: If an option is out of bounds, or its name unknown.

    >>> import torch
    >>> cnn(channels=1, size=8, outputs=10)(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    """
    whole("outputs", outputs)
    whole("hidden", hidden)
    convs, features = convolutions(
        channels=channels,
        size=size,
        depth=depth,
        width=width,
        activation=activation,
        normalisation=normalisation,
        residual=residual,
        dropout=dropout,
    )
    dense = DenseLayer(
        features,
        hidden,
        activation=activation,
        normalisation=normalisation,
        residual=False,
        dropout=dropout,
    )
    return initialise(CNN(convs, dense, outputs), initialisation)
