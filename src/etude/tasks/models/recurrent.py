"""Recurrent networks: plain (Elman 1990), LSTM (Hochreiter 1997), GRU (Cho et al. 2014).

Each layer is a torch module of one layer. Its gates are thus in `layers.<i>.cell.weight_*` in
torch's order (LSTM: input, forget, cell, output; GRU: reset, update, new), and normalisation and
shortcuts can be placed between the layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

from torch import Tensor, nn

from etude.errors import BadValueError, unknown_name
from etude.tasks.checks import flag, whole
from etude.tasks.models import parts
from etude.tasks.models.initialisation import initialise

CELLS: Mapping[str, type[nn.RNNBase]] = MappingProxyType(
    {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
)
"""The recurrent layers by name."""


class RecurrentLayer(nn.Module):
    """y = dropout(normalisation(cell(x))), plus x if residual."""

    def __init__(
        self, cell: nn.RNNBase, *, normalisation: str, residual: bool, dropout: float
    ) -> None:
        super().__init__()
        self.cell = cell
        self.norm = parts.normalisation(normalisation, cell.hidden_size)
        self.dropout = parts.dropout(dropout)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, L, inputs) to (N, L, width)."""
        y: Tensor = self.dropout(self.norm(self.cell(x)[0]))
        return x + y if self.residual else y


class Recurrent(nn.Module):
    """`embedding` (for symbols), `layers`, `head`: predicts at every step, or at the last one."""

    def __init__(
        self, embedding: nn.Module, layers: nn.Sequential, head: nn.Linear, *, every_step: bool
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.layers = layers
        self.head = head
        self.every_step = every_step

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, L, inputs), or symbols (N, L), to (N, L, outputs) or (N, outputs)."""
        states = self.layers(self.embedding(x))
        y: Tensor = self.head(states if self.every_step else states[:, -1])
        return y


def _stack(
    kind: type[nn.RNNBase],
    inputs: int,
    *,
    depth: int,
    width: int,
    normalisation: str,
    residual: bool,
    dropout: float,
    activation: str,
) -> nn.Sequential:
    """Return `depth` layers; those whose input is as wide as their output get a shortcut."""
    parts.only(
        "normalisation",
        normalisation,
        ("none", "layer"),
        "statistics over a batch or over channel groups do not suit single time steps",
    )
    if flag("residual", residual) and depth < 2 and inputs != width:
        raise BadValueError(
            f"residual=True with depth={depth} has no shortcut to add, since the first layer "
            f"changes the width from {inputs} to {width}: give depth >= 2, or residual=False"
        )
    layers = []
    for i in range(depth):
        size = width if i else inputs
        layers.append(
            RecurrentLayer(
                _cell(kind, size, width, activation),
                normalisation=normalisation,
                residual=residual and size == width,
                dropout=dropout,
            )
        )
    return nn.Sequential(*layers)


def _cell(kind: type[nn.RNNBase], inputs: int, width: int, activation: str) -> nn.RNNBase:
    if kind is nn.RNN:
        parts.only("activation", activation, ("tanh", "relu"), "torch's plain cell supports two")
        return nn.RNN(inputs, width, nonlinearity=activation, batch_first=True)
    why = f"{kind.__name__} always uses sigmoid and tanh, only rnn has a choice"
    parts.only("activation", activation, ("tanh",), why)
    return (
        nn.LSTM(inputs, width, batch_first=True)
        if kind is nn.LSTM
        else nn.GRU(inputs, width, batch_first=True)
    )


def recurrent(
    cell: str,
    *,
    outputs: int,
    inputs: int | None = None,
    vocabulary: int | None = None,
    every_step: bool = False,
    depth: int = 1,
    width: int = 64,
    activation: str = "tanh",
    normalisation: str = "none",
    residual: bool = False,
    initialisation: str = "default",
    dropout: float = 0.0,
) -> nn.Module:
    """Build a recurrent network; `rnn`, `lstm` and `gru` are this function with `cell` set.

    The plain cell is h_t = activation(W x_t + b + U h_{t-1} + c).

    Args:
        cell: 'rnn', 'lstm' or 'gru'.
        outputs: Numbers per prediction, for instance the number of classes or symbols.
        inputs: Numbers per time step; or else
        vocabulary: The number of symbols, each embedded as `width` numbers.
        every_step: Predict at each step, (N, L, outputs), not only at the last, (N, outputs).
        depth: Recurrent layers, at least 1.
        width: Units of each layer.
        activation: 'tanh', or for the plain cell 'relu'.
        normalisation: 'none' or 'layer', after each layer.
        residual: Add each layer's input to its output where both are equally wide.
        initialisation: A name in `initialisation.INITIALISATIONS`, applied to each gate separately.
        dropout: The share of each layer's outputs that training drops, in [0, 1).

    Returns:
        A module that takes (N, L, inputs), or symbol numbers (N, L).

    Raises:
        BadValueError: If an option is out of bounds, unknown, or not supported here.

    >>> import torch
    >>> recurrent("lstm", inputs=8, outputs=10)(torch.zeros(5, 8, 8)).shape
    torch.Size([5, 10])
    >>> gru(vocabulary=97, outputs=97, every_step=True)(torch.zeros(5, 8).long()).shape
    torch.Size([5, 8, 97])
    """
    if cell not in CELLS:
        raise unknown_name("cell", cell, CELLS)
    whole("outputs", outputs)
    whole("depth", depth)
    whole("width", width)
    flag("every_step", every_step)
    parts.check_source(inputs, vocabulary)
    embedding: nn.Module
    if vocabulary is not None:
        features, embedding = width, nn.Embedding(whole("vocabulary", vocabulary), width)
    else:
        features, embedding = whole("inputs", inputs), nn.Identity()
    layers = _stack(
        CELLS[cell],
        features,
        depth=depth,
        width=width,
        activation=activation,
        normalisation=normalisation,
        residual=residual,
        dropout=dropout,
    )
    model = Recurrent(embedding, layers, nn.Linear(width, outputs), every_step=every_step)
    return initialise(model, initialisation)


rnn = partial(recurrent, "rnn")
lstm = partial(recurrent, "lstm")
gru = partial(recurrent, "gru")
