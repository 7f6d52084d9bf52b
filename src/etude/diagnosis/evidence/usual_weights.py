"""The size of the weights that torch's layers draw for themselves."""

from __future__ import annotations

import math

from torch import Tensor, nn

from etude.torch_internals import CONVOLUTIONS

INNER = (nn.Linear, nn.Bilinear, *CONVOLUTIONS)
"""Layers that draw from the uniform distribution between -1/√n and 1/√n, n inputs per unit."""


def usual_size(module: nn.Module, weight: Tensor) -> float:
    """Return the root mean square of weights that a layer draws; NaN if it is not known.

        (3n)^(-1/2)  of linear layers and convolutions with n inputs per unit,
                     and of recurrent layers with n units
        1            of embeddings

    Args:
        module: The layer.
        weight: One of its weights; a vector has no usual size.

    >>> layer = nn.Linear(300, 8)
    >>> round(usual_size(layer, layer.weight), 4)
    0.0333
    """
    if weight.ndim < 2:
        return math.nan
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return 1.0
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return float((3 * module.hidden_size) ** -0.5)
    if isinstance(module, INNER):
        inputs = weight.shape[1] if isinstance(module, nn.Bilinear) else weight[0].numel()
        return (3 * inputs) ** -0.5 if inputs else math.nan
    return math.nan
