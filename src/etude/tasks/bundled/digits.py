"""Handwritten digits: 1,797 images of 8 × 8 pixels in ten classes, shipped in scikit-learn.

Source: the test part of Alpaydin and Kaynak's optical recognition of handwritten digits, UCI 1998.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from etude.tasks.bundled.examples import Examples, halves, standardise


@cache
def _load() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.images, dtype=torch.float32), torch.tensor(data.target).long()


def _split(valid_share: float, split_seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    images, labels = _load()
    train, valid = halves(len(images), valid_share, split_seed)
    x, held = standardise(images[train], images[valid])
    return x, labels[train], held, labels[valid]


def images(*, valid_share: float = 0.2, split_seed: int = 0) -> Examples:
    """Return images (N, 1, 8, 8) of mean 0 and variance 1, and labels (N,).

    Args:
        valid_share: The share of the samples held out, in (0, 1).
        split_seed: The seed that selects those samples.

    >>> images().train[0].shape, images().valid[0].shape
    (torch.Size([1438, 1, 8, 8]), torch.Size([359, 1, 8, 8]))
    """
    x, y, held, labels = _split(valid_share, split_seed)
    facts = {"inputs": 64, "channels": 1, "size": 8, "outputs": 10}
    return Examples((x[:, None], y), (held[:, None], labels), facts)


def rows(*, valid_share: float = 0.2, split_seed: int = 0) -> Examples:
    """Return images as sequences (N, 8, 8): 8 steps, each a row of 8 pixels; and labels (N,).

    Args:
        valid_share: The share of the samples held out, in (0, 1).
        split_seed: The seed that selects those samples.

    >>> rows().train[0].shape
    torch.Size([1438, 8, 8])
    """
    x, y, held, labels = _split(valid_share, split_seed)
    return Examples((x, y), (held, labels), {"inputs": 8, "context": 8, "outputs": 10})


def copies(*, valid_share: float = 0.2, split_seed: int = 0) -> Examples:
    """Return flat images (N, 64), each its own target.

    Args:
        valid_share: The share of the samples held out, in (0, 1).
        split_seed: The seed that selects those samples.

    >>> copies().train[0].equal(copies().train[1])
    True
    """
    x, _, held, _ = _split(valid_share, split_seed)
    x, held = x.flatten(1), held.flatten(1)
    return Examples((x, x), (held, held), {"inputs": 64})
