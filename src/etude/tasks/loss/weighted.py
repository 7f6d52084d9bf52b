"""A loss with its weight, so that the losses of unequal batches are combined correctly.

A mean over targets is a sum divided by a weight: L = S / W. The loss of two batches together is
(S₁ + S₂) / (W₁ + W₂), which equals the mean of the two means only if W₁ = W₂.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from etude.errors import BadTypeError, BadValueError, TaskError, kind_of
from etude.tasks.loss.weighing import Scales

Weight = float | Tensor


@dataclass(frozen=True)
class WeightedLoss:
    """The loss of one batch, and its weight relative to other batches.

    Attributes:
        mean: The loss as it was returned, a scalar: sum / weight. It may be NaN if no target
            counts.
        weight: The divisor of the sum: the number of targets that count, or the sum of their
            weights. A number, or a scalar tensor without graph; None if it is not known.
        terms: Of a sum of means, such as the losses of two heads: each mean, without graph, with
            its weight. Empty if it is none, or if they are not known.

    >>> WeightedLoss.of_pair(torch.tensor(6.0), 4).mean
    tensor(1.5000)
    """

    mean: Tensor
    weight: Weight | None = None
    terms: tuple[tuple[Tensor, Weight], ...] = ()

    @classmethod
    def of_pair(cls, total: Any, weight: Any) -> WeightedLoss:
        """Return the loss sum / weight; if the weight is 0, the sum.

        Raises:
            BadTypeError: If the sum is not a tensor, or the weight not a number.
            BadValueError: If one of them is not a single number, or the weight is negative.
        """
        if not isinstance(total, Tensor):
            raise BadTypeError(f"the sum is {kind_of(total)}: give a scalar tensor")
        if isinstance(weight, bool) or not isinstance(weight, (int, float, Tensor)):
            raise BadTypeError(f"the weight is {kind_of(weight)}: give a number or a scalar tensor")
        for name, part in (("sum", total), ("weight", weight)):
            if isinstance(part, Tensor) and part.numel() != 1:
                raise BadValueError(
                    f"the {name} is a tensor of shape {tuple(part.shape)}: give two scalars, the "
                    "sum over the batch's targets and the number of targets"
                )
        known = weight.detach().reshape(()) if isinstance(weight, Tensor) else float(weight)
        if not isinstance(known, Tensor) and not (math.isfinite(known) and known >= 0):
            raise BadValueError(f"the weight is {known}: give a finite number of at least 0")
        return cls(total.reshape(()) / _safe(known), known)

    def times(self, factor: Weight) -> Tensor:
        """Return the mean times a factor; 0 if no target counts, even where the mean is NaN.

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
        """Return the same loss with its weight as a number, unless the weight is on a device."""
        if isinstance(self.weight, Tensor) and self.weight.device.type == "cpu":
            return replace(self, weight=float(self.weight))
        return self


Terms = tuple[tuple[Tensor, Weight], ...]


def weighed(call: Callable[..., Any], *args: Any) -> tuple[Any, Weight | None, Terms]:
    """Call a loss and find its weight: the divisor of its mean.

    The weight is found if the last operations of the loss are a mean, a sum divided by a count or
    by a sum of weights, or a loss of torch with reduction='mean', optionally scaled by a number.

    Returns:
        The value of the loss; its weight, None if it was not found; and the means with their
        weights whose sum it is, if they are several.

    >>> from torch.nn import functional as F
    >>> scores, labels = torch.zeros(3, 2), torch.tensor([0, -100, 1])
    >>> weighed(lambda: F.cross_entropy(scores, labels))[1]
    tensor(2)
    """
    scales = Scales()
    with scales:
        result = loss_in(call(*args))
    weight = scales.weight(result)
    terms = scales.terms(result)
    if isinstance(weight, Tensor):
        result = scales.with_finite_gradient(result)
    return result, weight, terms


def loss_in(result: Any) -> Any:
    """Return what a mapping holds under 'loss', and anything else as it is.

    >>> loss_in({"loss": 2.0, "logits": None}), loss_in(3.0)
    (2.0, 3.0)
    """
    return result["loss"] if isinstance(result, Mapping) and "loss" in result else result


def as_loss(
    loss: Any,
    name: str,
    verb: str = "return",
    weight: Weight | None = None,
    terms: Terms = (),
) -> WeightedLoss:
    """Convert the return value of a loss or a step to a WeightedLoss.

    Args:
        loss: A scalar, a pair (sum, weight), or a mapping that holds one under 'loss'.
        name: The name of the loss or step, for error messages.
        verb: 'return' or 'yield'.
        weight: The weight that was found for a scalar.
        terms: The means whose sum it was found to be.

    Raises:
        TaskError: If it is anything else.
    """
    loss = loss_in(loss)
    if isinstance(loss, Tensor) and loss.ndim == 0:
        return WeightedLoss(loss, weight, terms)
    if isinstance(loss, tuple) and len(loss) == 2:
        try:
            return WeightedLoss.of_pair(*loss)
        except (BadTypeError, BadValueError) as error:
            raise TaskError(
                f"{name} {verb}ed a pair, which is read as (sum, weight): {error}"
            ) from error
    if isinstance(loss, Generator):
        raise TaskError(
            f"{name} returned a generator: to update parts in turn, give the generator function "
            "itself (def step(model, batch): ... yield part, loss), not a function that calls it"
        )
    if isinstance(loss, Mapping):
        keys = ", ".join(map(repr, loss)) or "nothing"
        raise TaskError(
            f"{name} {verb}ed {kind_of(loss)} with {keys}, and no 'loss': put the loss "
            "under 'loss', or give the model the labels from which it computes one"
        )
    if not isinstance(loss, Tensor):
        raise TaskError(
            f"{name} {verb}ed {kind_of(loss)}: it must {verb} a scalar tensor, or a sum "
            "and its weight"
        )
    if loss.numel() == 1:
        return WeightedLoss(loss.reshape(()), weight, terms)
    raise TaskError(
        f"{name} {verb}ed a tensor of shape {tuple(loss.shape)}: a loss is one number; "
        "average it, for instance with .mean()"
    )


def _safe(weight: Weight) -> Weight:
    """Return the weight as a divisor: 1 if it is 0."""
    if isinstance(weight, Tensor):
        return torch.where(weight == 0, torch.ones_like(weight), weight)
    return weight or 1.0
