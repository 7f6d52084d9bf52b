"""Two tables that ship in scikit-learn: breast cancer (two classes) and diabetes (a number).

Sources: Wolberg, Street and Mangasarian, Wisconsin diagnostic breast cancer, UCI 1995;
Efron, Hastie, Johnstone and Tibshirani, "Least angle regression", 2004.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from etude.tasks.bundled.examples import Examples, halves, standardise


@cache
def _load(name: str) -> tuple[Tensor, Tensor]:
    from sklearn import datasets

    features, target = getattr(datasets, f"load_{name}")(return_X_y=True)
    return torch.tensor(features, dtype=torch.float32), torch.tensor(target)


def cancer(*, valid_share: float = 0.2, split_seed: int = 0) -> Examples:
    """Return 30 standardised features (N, 30) of 569 tumours, and labels (N,): 1 is benign.

    Args:
        valid_share: The share of the samples held out, in (0, 1).
        split_seed: The seed that selects those samples.

    >>> cancer().train[0].shape, cancer().valid[1].shape
    (torch.Size([455, 30]), torch.Size([114]))
    """
    features, labels = _load("breast_cancer")
    train, valid = halves(len(features), valid_share, split_seed)
    x, held = standardise(features[train], features[valid], axes=(0,))
    labels = labels.long()
    return Examples((x, labels[train]), (held, labels[valid]), {"inputs": 30, "outputs": 2})


def diabetes(*, valid_share: float = 0.2, split_seed: int = 0) -> Examples:
    """Return 10 standardised features (N, 10) of 442 patients, and the progression (N, 1).

    The target too has mean 0 and variance 1 over the training part, so that always predicting
    the mean gives a mean squared error of 1 there.

    Args:
        valid_share: The share of the samples held out, in (0, 1).
        split_seed: The seed that selects those samples.

    >>> diabetes().train[0].shape, diabetes().valid[1].shape
    (torch.Size([354, 10]), torch.Size([88, 1]))
    """
    features, target = _load("diabetes")
    train, valid = halves(len(features), valid_share, split_seed)
    x, held = standardise(features[train], features[valid], axes=(0,))
    target = target.float()[:, None]
    y, answers = standardise(target[train], target[valid])
    return Examples((x, y), (held, answers), {"inputs": 10, "outputs": 1})
