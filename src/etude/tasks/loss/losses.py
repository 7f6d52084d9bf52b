"""Losses that torch does not have under one name."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def symbol_cross_entropy(output: Tensor, target: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean cross-entropy per symbol, -log p(target), in nats.

    Args:
        output: Scores (N, L, symbols).
        target: Symbol numbers (N, L).
        label_smoothing: The share of each target that is spread evenly over the symbols.

    >>> import torch
    >>> round(symbol_cross_entropy(torch.zeros(2, 3, 4), torch.zeros(2, 3).long()).item(), 4)
    1.3863
    """
    return F.cross_entropy(output.flatten(0, -2), target.flatten(), label_smoothing=label_smoothing)
