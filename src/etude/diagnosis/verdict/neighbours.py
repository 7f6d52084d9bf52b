"""Whether labels belong to their inputs, by the nearest other samples."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

COUNT = 5
"""The number of neighbours."""

TRAIN, VALID, COLUMNS = 1000, 500, 1024
"""The largest numbers of samples, and of input columns, that are compared."""


class Neighbours(NamedTuple):
    """How well targets are told from the nearest samples: 0 is chance, 1 is perfect; NaN unknown.

    Attributes:
        within: Of validation samples, from the other validation samples.
        across: Of validation samples, from training samples.
    """

    within: float
    across: float


def neighbours(
    train: Tensor | None, labels: Tensor | None, valid: Tensor | None, held: Tensor | None
) -> Neighbours:
    """Tell validation targets by the five nearest samples of either part.

    Labels that were mixed in the training part alone are told well within the validation part and
    badly from the training part.

    Args:
        train: (samples, columns) the training inputs; None if they are not known.
        labels: The training targets.
        valid: The validation inputs.
        held: The validation targets.

    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.randn(400, 3, generator=g)
    >>> y = (x[:, 0] > 0).long()
    >>> mixed = y[:200][torch.randperm(200, generator=g)]
    >>> right = neighbours(x[:200], y[:200], x[200:], y[200:])
    >>> wrong = neighbours(x[:200], mixed, x[200:], y[200:])
    >>> right.across > 0.5, wrong.across < 0.3, wrong.within > 0.5
    (True, True, True)
    """
    if train is None or labels is None or valid is None or held is None:
        return Neighbours(math.nan, math.nan)
    # Data of a loader stay on the CPU, and tensors lie where the network is.
    train, labels = train[:TRAIN, :COLUMNS], labels[:TRAIN].to(train.device)
    valid, held = (part[:VALID].to(train.device) for part in (valid[:, :COLUMNS], held))
    fits = train.shape[1] == valid.shape[1] and labels.shape[1:] == held.shape[1:]
    enough = min(len(train), len(valid)) > 4 * COUNT
    if not fits or not enough or labels.numel() > 64 * len(labels):
        return Neighbours(math.nan, math.nan)
    if not bool(torch.isfinite(train).all() and torch.isfinite(valid).all()):
        return Neighbours(math.nan, math.nan)
    centre, spread = train.mean(0), train.std(0)
    spread = torch.where(spread > 0, spread, torch.ones_like(spread))
    train, valid = (train - centre) / spread, (valid - centre) / spread
    own = torch.cdist(valid, valid).fill_diagonal_(math.inf)
    own[:, len(train) :] = math.inf  # no more of them than there are training samples
    return Neighbours(_told(own, held, held), _told(torch.cdist(valid, train), labels, held))


def _told(distance: Tensor, known: Tensor, wanted: Tensor) -> float:
    """Return the share of what a constant leaves wrong that the nearest samples get right."""
    nearest = distance.topk(COUNT, largest=False).indices
    if known.is_floating_point():
        y = wanted.double().reshape(len(wanted), -1)
        guess = known.double().reshape(len(known), -1)[nearest].mean(1)
        left = float((y - y.mean(0)).square().mean())
        return 1.0 - float((guess - y).square().mean()) / left if left > 0 else math.nan
    if known.ndim > 1:
        return math.nan
    guess = known[nearest].mode(1).values
    usual = wanted.mode().values
    constant = float((wanted != usual).double().mean())
    return 1.0 - float((guess != wanted).double().mean()) / constant if constant > 0 else math.nan
