"""A loss that knows how much it weighs, so that losses of unequal pieces are put together rightly.

A mean over what is answered is a sum over a weight: L = S / W. Of two pieces it is
(S₁ + S₂) / (W₁ + W₂), which the mean of the means equals only where W₁ = W₂.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from etude.errors import BadTypeError, BadValueError, TaskError
from etude.tasks.weighing import Scales

Weight = float | Tensor


@dataclass(frozen=True)
class WeightedLoss:
    """The loss of one batch, and how much it weighs beside others.

    Attributes:
        mean: The loss as it was returned, a scalar: sum / weight. NaN may stand for a mean over
            nothing.
        weight: What the sum was divided by: the answered targets, or the sum of their weights. A
            number, or a scalar tensor without graph; None where that is not known.

    >>> WeightedLoss.of_pair(torch.tensor(6.0), 4).mean
    tensor(1.5000)
    """

    mean: Tensor
    weight: Weight | None = None

    @classmethod
    def of_pair(cls, total: Any, weight: Any) -> WeightedLoss:
        """Return the loss that is a sum over a weight; over a weight of 0 it is the sum.

        Raises:
            BadTypeError: If the sum is no tensor, or the weight no number.
            BadValueError: If one of them is not a single number, or the weight is negative.
        """
        if not isinstance(total, Tensor):
            raise BadTypeError(f"the sum is a {type(total).__name__}: give a scalar tensor")
        if isinstance(weight, bool) or not isinstance(weight, (int, float, Tensor)):
            raise BadTypeError(
                f"the weight is a {type(weight).__name__}: give a number or a scalar tensor"
            )
        for name, part in (("sum", total), ("weight", weight)):
            if isinstance(part, Tensor) and part.numel() != 1:
                raise BadValueError(
                    f"the {name} is a tensor of shape {tuple(part.shape)}: give one number, the "
                    "sum over the batch's targets and how many there are"
                )
        known = weight.detach().reshape(()) if isinstance(weight, Tensor) else float(weight)
        if not isinstance(known, Tensor) and not (math.isfinite(known) and known >= 0):
            raise BadValueError(f"the weight is {known}: give a finite number of at least 0")
        return cls(total.reshape(()) / _safe(known), known)

    def times(self, factor: Weight) -> Tensor:
        """Return the mean times a factor; 0 where nothing is answered, whatever the mean is.

        Args:
            factor: A number or a scalar tensor.
        """
        if isinstance(factor, Tensor):
            factor = factor.to(self.mean.dtype)
        if isinstance(self.weight, Tensor):
            mean = torch.where(self.weight > 0, self.mean, torch.zeros_like(self.mean))
            return mean * factor
        if self.weight == 0:
            return self.mean.detach().new_zeros(())
        return self.mean * factor

    def read(self) -> WeightedLoss:
        """Return the same with the weight as a number, where that does not wait for a device."""
        if isinstance(self.weight, Tensor) and self.weight.device.type == "cpu":
            return replace(self, weight=float(self.weight))
        return self


def weighed(call: Callable[[], Any]) -> tuple[Any, Weight | None]:
    """Call a loss, and find what its mean was taken over.

    Whatever the loss computes on the way, what counts is how it ends: in a mean, in a sum over a
    count or a sum of weights, or in a loss of torch with reduction='mean'; scaled, if at all, by
    a number.

    Returns:
        What it returned, and its weight: None where it ends otherwise.

    >>> from torch.nn import functional as F
    >>> scores, labels = torch.zeros(3, 2), torch.tensor([0, -100, 1])
    >>> weighed(lambda: F.cross_entropy(scores, labels))[1]
    tensor(2)
    """
    scales = Scales()
    with scales:
        result = call()
    weight = scales.weight(result)
    return scales.again(result) if isinstance(weight, Tensor) else result, weight


def as_loss(
    loss: Any, name: str, verb: str = "return", weight: Weight | None = None
) -> WeightedLoss:
    """Return what a loss or a step returned as a WeightedLoss.

    Args:
        loss: A scalar, or a pair (sum, weight).
        name: Who returned it.
        verb: 'return' or 'yield'.
        weight: What a scalar was found to be a mean over.

    Raises:
        TaskError: If it is anything else.
    """
    if isinstance(loss, tuple) and len(loss) == 2:
        try:
            return WeightedLoss.of_pair(*loss)
        except (BadTypeError, BadValueError) as error:
            raise TaskError(
                f"{name} {verb}ed a pair, which stands for (sum, weight): {error}"
            ) from error
    if isinstance(loss, Generator):
        raise TaskError(
            f"{name} returned a generator: for parts that take turns, give the generator function "
            "itself (def step(model, batch): ... yield part, loss), not one that calls it"
        )
    if not isinstance(loss, Tensor):
        raise TaskError(
            f"{name} {verb}ed a {type(loss).__name__}: it must {verb} a scalar tensor, or a sum "
            "and its weight"
        )
    if loss.ndim == 0:
        return WeightedLoss(loss, weight)
    if loss.numel() == 1:
        return WeightedLoss(loss.reshape(()), weight)
    raise TaskError(
        f"{name} {verb}ed a tensor of shape {tuple(loss.shape)}: a loss is one number; "
        "average it, for instance with .mean()"
    )


def _safe(weight: Weight) -> Weight:
    """Return a divisor: the weight, or 1 in place of 0."""
    if isinstance(weight, Tensor):
        return torch.where(weight == 0, torch.ones_like(weight), weight)
    return weight or 1.0
