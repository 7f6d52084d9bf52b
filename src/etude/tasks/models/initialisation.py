"""Initialisations of the weights, by name, for all families of models.

The fans are those of a single matrix: a fused recurrent tensor holds one matrix per gate, and
each is initialised separately.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType

from torch import Tensor, nn
from torch.nn import init

from etude.errors import unknown_name

INITIALISATIONS: Mapping[str, Callable[[Tensor], Tensor] | None] = MappingProxyType(
    {
        "default": None,
        "uniform": partial(init.uniform_, a=-0.05, b=0.05),
        "normal": partial(init.normal_, std=0.05),
        "xavier_uniform": init.xavier_uniform_,
        "xavier_normal": init.xavier_normal_,
        "he_uniform": partial(init.kaiming_uniform_, nonlinearity="relu"),
        "he_normal": partial(init.kaiming_normal_, nonlinearity="relu"),
        "orthogonal": init.orthogonal_,
    }
)
"""Name -> function that fills a weight in place; None keeps the layers' own initialisation."""

GATES = {nn.RNN: 1, nn.LSTM: 4, nn.GRU: 3}
"""The number of matrices in one tensor of each recurrent layer."""


def initialise(model: nn.Module, name: str) -> nn.Module:
    """Draw new weights for `model`, in place, from torch's global generator.

    With fan_in and fan_out of the weight (times the kernel's area, for a convolution):

        default         the layers' own initialisation
        uniform         U(-0.05, 0.05), normal: N(0, 0.05²), whatever the layer's size
        xavier_*        variance 2 / (fan_in + fan_out)   (Glorot and Bengio 2010)
        he_*            variance 2 / fan_in               (He et al. 2015)
        orthogonal      W Wᵀ = 1 or Wᵀ W = 1              (Saxe et al. 2013)

    With every name except `default` biases are set to 0. Normalisations and embedding tables keep
    their values: they have no fan.

    Args:
        model: Any module of linear, convolutional and recurrent layers.
        name: One of `INITIALISATIONS`.

    Returns:
        The same model.

    Raises:
        UnknownNameError: If the name is unknown.

    >>> layer = initialise(nn.Linear(400, 400), "he_normal")
    >>> round(layer.weight.std().item(), 2), layer.bias.abs().max().item()
    (0.07, 0.0)
    """
    if name not in INITIALISATIONS:
        raise unknown_name("initialisation", name, INITIALISATIONS)
    fill = INITIALISATIONS[name]
    if fill is None:
        return model
    for weight in weights(model):
        fill(weight)
    for bias in _biases(model):
        init.zeros_(bias)
    return model


def weights(model: nn.Module) -> Iterator[Tensor]:
    """Yield every weight matrix or kernel that has a fan, one per gate of a recurrent layer."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            yield module.weight.detach()
        elif isinstance(module, nn.RNNBase):
            for key, parameter in module.named_parameters():
                if key.startswith("weight"):
                    yield from parameter.detach().chunk(GATES[type(module)])


def _biases(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)) and module.bias is not None:
            yield module.bias
        elif isinstance(module, nn.RNNBase):
            yield from (p for key, p in module.named_parameters() if key.startswith("bias"))
