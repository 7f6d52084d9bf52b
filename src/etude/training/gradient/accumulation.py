"""The gradient of an update of several batches, weighted by the weights of their losses."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from etude.tasks.loss.weighted import Weight, WeightedLoss
from etude.training.world import JointGradient


class Accumulation:
    """Adds up the gradient of the mean over all answered targets of one update's batches.

        L = Σ_b w_b L_b / Σ_b w_b

    with L_b the loss of a batch and w_b its weight. A batch of weight 0 does not count, whatever
    its loss is, and an update of weight 0 has the loss 0 and the gradient 0. If the weights are
    equal or unknown, this is exactly the mean over the batches. A batch of unknown weight beside
    known ones weighs as much as the mean of those before it, or as the first one after it. A
    penalty of the recipe is always the mean over the batches.

    The total weight is known only after the last backward pass: each batch is first weighted
    relative to the first one, and the gradient is rescaled at the end.

    Args:
        count: The number of batches in the update.
        parameters: The parameters whose gradients are computed.
        only: Whether only these parameters get a gradient.
        joint: What computes the gradient with other processes; None in a single one. Every loss is
            then that of a share, and its weight that of the whole batch.
        factor: What the loss is multiplied by in the backward pass.
    """

    def __init__(
        self,
        count: int,
        parameters: Sequence[Tensor],
        *,
        only: bool = False,
        joint: JointGradient | None = None,
        factor: float = 1.0,
    ) -> None:
        self.count, self.only, self.joint, self.factor = count, only, joint, factor
        self._given = parameters
        self._sums: dict[str, Tensor] = {}
        self._reference: Weight | None = None
        self._total: Weight = 0.0
        self._sum: Weight = 0.0  # of known weights
        self._known: Weight = 0.0  # how many of them are above 0
        self._counts = False  # whether one of them may be
        self._unknown = 0
        self._fixed: list[Tensor | None] = []
        self._idle: Tensor | None = None

    @cached_property
    def parameters(self) -> list[Tensor]:
        """The parameters that get a gradient."""
        return [p for p in self._given if p.requires_grad]

    @property
    def is_empty(self) -> bool:
        """Whether no target was answered; False if the answer is still on a device."""
        return not isinstance(self._total, Tensor) and self._total == 0

    def add(self, loss: WeightedLoss, penalty: Tensor | None = None) -> None:
        """Do the backward pass of one batch.

        Raises:
            RuntimeError: If torch raises it.
        """
        loss, each = loss.read(), 1 / self.count
        parts = {"loss": self._share(loss)}
        total = parts["loss"]
        if penalty is not None:
            parts["penalty"] = penalty * each if self.count > 1 else penalty
            if self.count > 1 and loss.weight is not None:
                self._keep(parts["penalty"])
            total = total + parts["penalty"]
        empty = not isinstance(loss.weight, Tensor) and loss.weight == 0  # not on a device
        if empty:
            self._idle = loss.mean
        inputs = self.parameters if self.only else None
        idle = inputs == []  # all parameters are frozen
        if not idle and (total.requires_grad or not empty):
            torch.autograd.backward(self._scaled(total), inputs=inputs)
        for name, value in parts.items():
            value = value.detach()
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def finish(self) -> dict[str, Tensor]:
        """Rescale the gradient, and return the loss, and the penalty if there is one."""
        if self.is_empty:
            if self.joint is None:  # else the backward pass has set them
                self._set_to_zero()
        elif self.count > 1:
            self._rescale()
        return self._sums

    def _scaled(self, value: Tensor) -> Tensor:
        """Return what is differentiated: in float16, the factor itself would be infinite."""
        return value if self.factor == 1 else value.float() * self.factor

    def _share(self, loss: WeightedLoss) -> Tensor:
        """Return a batch's loss times its weight relative to the first one, over `count`."""
        if self.count == 1 and self.joint is None and isinstance(loss.weight, Tensor):
            self._total = loss.weight  # on a device, where each operation takes time
            return loss.mean.masked_fill(loss.weight <= 0, 0.0)
        weight = self._weight(loss.weight)
        if self._reference is None:
            self._reference = positive(weight)
        self._total = self._total + weight
        if self.count == 1 and not isinstance(weight, Tensor) and weight != 0:
            return loss.mean
        if self.joint is not None and not isinstance(weight, Tensor) and weight == 0:
            return loss.mean * 0  # with its graph, because other processes wait
        return loss.times(weight / self._reference * (1 / self.count))

    def _weight(self, found: Weight | None) -> Weight:
        """Return the weight of a batch; of one of unknown weight, see the class."""
        if found is None:
            self._unknown += 1
            return self._sum / positive(self._known) if self._counts else 1.0
        if not self._counts and (isinstance(found, Tensor) or found > 0):
            self._counts = True
            if self._unknown:  # they were counted as 1 each, and weigh as much as this one
                self._reference, self._total = positive(found), found * self._unknown
        self._sum = self._sum + found
        self._known = self._known + (found > 0)
        return found

    def _keep(self, penalty: Tensor) -> None:
        """Keep the gradient of a penalty, which must not be weighted with the loss."""
        scaled = self._scaled(penalty)
        own = torch.autograd.grad(scaled, self.parameters, retain_graph=True, allow_unused=True)
        before = self._fixed or [None] * len(own)
        self._fixed = [
            a if b is None else b if a is None else a + b for a, b in zip(before, own, strict=True)
        ]

    def _rescale(self) -> None:
        """Divide the loss and its gradient by the total, without the part of a penalty."""
        assert self._reference is not None
        scale = self._reference * self.count / positive(self._total)
        if not isinstance(scale, Tensor) and scale == 1:
            return
        self._sums["loss"] = self._sums["loss"] * scale
        parameters = self.parameters
        fixed = self._fixed or [None] * len(parameters)
        if self.joint is not None:
            self.joint.average([own for own in fixed if own is not None])
        with torch.no_grad():
            for parameter, own in zip(parameters, fixed, strict=True):
                if parameter.grad is None:
                    continue
                parameter.grad.mul_(scale)
                if own is not None:
                    parameter.grad.add_(own * (1 - scale))

    def _set_to_zero(self) -> None:
        """Set the gradients to 0, so that momentum and decay still apply."""
        if self._idle is None or not self._idle.requires_grad:
            return
        parameters = self.parameters
        reached = torch.autograd.grad(self._idle, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, reached, strict=True):
            if gradient is not None and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)


def shares(losses: Sequence[WeightedLoss]) -> list[Weight]:
    """Return the factor of each loss in the mean over all answered targets.

    w_b / Σ_b w_b, or the same for all if a weight is unknown

    >>> shares([WeightedLoss(torch.tensor(1.0), 1.0), WeightedLoss(torch.tensor(3.0), 3.0)])
    [0.25, 0.75]
    """
    weights = [1.0 if loss.weight is None else loss.weight for loss in losses]
    if any(loss.weight is None for loss in losses) or all(w == weights[0] for w in weights):
        return [1 / len(losses)] * len(losses)
    total = positive(sum(weights[1:], weights[0]))
    return [weight / total for weight in weights]


def positive(weight: Weight) -> Weight:
    """Return the weight, or 1 if it is 0, to divide by."""
    if isinstance(weight, Tensor):
        return torch.where(weight > 0, weight, torch.ones_like(weight))
    return weight if weight > 0 else 1.0
