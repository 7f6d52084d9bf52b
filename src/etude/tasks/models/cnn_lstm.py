"""Convolutions and an LSTM: pictures one after another (Donahue et al. 2015)."""

from __future__ import annotations

from torch import Tensor, nn

from etude.tasks.checks import flag, whole
from etude.tasks.models.cnn import convolutions
from etude.tasks.models.initialisation import initialise


class ConvRecurrent(nn.Module):
    """`convs` read each picture, `cell` reads what they say of it, `head` predicts."""

    def __init__(
        self, convs: nn.Sequential, cell: nn.LSTM, head: nn.Linear, *, every_step: bool
    ) -> None:
        super().__init__()
        self.convs = convs
        self.cell = cell
        self.head = head
        self.every_step = every_step

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, L, channels, size, size) to (N, outputs), or (N, L, outputs) at every step."""
        pictures = x.flatten(0, 1).contiguous()
        features = self.convs(pictures).flatten(1).unflatten(0, x.shape[:2])
        states = self.cell(features)[0]
        y: Tensor = self.head(states if self.every_step else states[:, -1])
        return y


def cnn_lstm(
    *,
    channels: int,
    size: int,
    outputs: int,
    every_step: bool = False,
    depth: int = 2,
    width: int = 16,
    hidden: int = 64,
    activation: str = "relu",
    normalisation: str = "none",
    residual: bool = False,
    initialisation: str = "default",
    dropout: float = 0.0,
) -> nn.Module:
    """Build a network for sequences of pictures: the same convolutions for each, then an LSTM.

    With the convolutions f and the pictures x_1 .. x_L:

        h_t = LSTM(f(x_t), h_{t-1}),    y = W h_L + b

    Args:
        channels: Channels of a picture.
        size: Pixels along each side of a picture, at least 2.
        outputs: Numbers per prediction, for instance the number of classes.
        every_step: Predict after each picture, (N, L, outputs), not only after the last.
        depth: Convolutions, at least 1.
        width: Channels of the first convolution; they double with each pooling.
        hidden: Units of the LSTM.
        activation: A name in `parts.ACTIVATIONS`, of the convolutions.
        normalisation: 'none', 'batch', 'layer' or 'group', before each activation.
        residual: Add each convolution's input to its output.
        initialisation: A name in `initialisation.INITIALISATIONS`.
        dropout: The share of each convolution's outputs that training drops, in [0, 1).

    Returns:
        A module from (N, L, channels, size, size) to (N, outputs) or (N, L, outputs).

    Raises:
        BadValueError: If an option is out of bounds, or its name unknown.

    Source: Donahue et al., "Long-term recurrent convolutional networks", 2015.

    >>> import torch
    >>> cnn_lstm(channels=3, size=8, outputs=8)(torch.zeros(5, 6, 3, 8, 8)).shape
    torch.Size([5, 8])
    """
    whole("outputs", outputs)
    whole("hidden", hidden)
    flag("every_step", every_step)
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
    cell = nn.LSTM(features, hidden, batch_first=True)
    model = ConvRecurrent(convs, cell, nn.Linear(hidden, outputs), every_step=every_step)
    return initialise(model, initialisation)
