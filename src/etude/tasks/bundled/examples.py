"""The data that a source returns to a task, and the preparation that all sources share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from etude.tasks.checks import share, whole


@dataclass(frozen=True, eq=False)
class Examples:
    """Training and validation data, and the facts about them that a model is built from.

    Tensors are made contiguous. The layout that decoding or cutting an image leaves would select
    the convolution kernel, and on some processors a faulty one.

    Attributes:
        train: The `train` argument of a Task.
        valid: The `valid` argument of a Task.
        facts: Arguments of the model that follow from the data, such as `outputs`.
    """

    train: Any
    valid: Any
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "train", contiguous(self.train))
        object.__setattr__(self, "valid", contiguous(self.valid))
        object.__setattr__(self, "facts", MappingProxyType(dict(self.facts)))


def contiguous(data: Any) -> Any:
    """Return a tensor, or a tuple of tensors, in torch's default layout; other data unchanged.

    >>> contiguous(torch.zeros(2, 3).T).is_contiguous()
    True
    """
    if isinstance(data, Tensor):
        return data.contiguous()
    if isinstance(data, tuple):
        return tuple(contiguous(part) for part in data)
    return data


def halves(count: int, valid_share: float, split_seed: int) -> tuple[Tensor, Tensor]:
    """Return the disjoint indices of training and validation samples, drawn from `split_seed`.

    Args:
        count: The number of samples.
        valid_share: The share held out, in (0, 1); each part gets at least one sample.
        split_seed: A whole number of at least 0.

    Raises:
        BadValueError: If an argument is out of bounds.

    >>> train, valid = halves(10, 0.2, 0)
    >>> len(train), len(valid), sorted([*train.tolist(), *valid.tolist()]) == list(range(10))
    (8, 2, True)
    """
    share("valid_share", valid_share, open_low=True)
    whole("split_seed", split_seed, least=0, most=2**63 - 1)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(split_seed))
    held = min(max(round(count * valid_share), 1), count - 1)
    return order[held:], order[:held]


def standardise(
    train: Tensor, *others: Tensor, axes: tuple[int, ...] | None = None
) -> tuple[Tensor, ...]:
    """Return (x - mean) / std of each tensor, with the statistics of `train` alone.

    Args:
        train: The training samples; their mean becomes 0 and their variance 1. Constant values
            become 0.
        others: Samples to scale in the same way.
        axes: The axes to average over, for statistics per feature or channel; None for all.

    >>> [x.tolist() for x in standardise(torch.tensor([1.0, 3.0]), torch.tensor([5.0]))]
    [[-1.0, 1.0], [3.0]]
    """
    std, mean = torch.std_mean(train, axes, correction=0, keepdim=True)
    scale = torch.where(std > 0, std, torch.ones_like(std))
    return tuple((x - mean) / scale for x in (train, *others))
