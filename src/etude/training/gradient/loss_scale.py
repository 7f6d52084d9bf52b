"""The scale of the loss in float16, in which small gradients would be rounded to 0."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from etude.errors import StorageError, TaskError, shown
from etude.torch_internals import foreach, sparse_parts

FIRST = 2.0**16
"""The scale of the first update."""

GROWTH, BACKOFF = 2.0, 0.5
"""By what the scale is multiplied after `INTERVAL` gradients in a row that are finite, and after
one that is not."""

INTERVAL = 2_000
"""Updates without an overflow after which a larger scale is tried."""

LEAST = 2.0**-10
"""The scale below which the loss itself, or its gradient, is too large for float16."""


OVERFLOWED = (
    "the gradient overflowed float16 at every loss scale down to {least:.2g}, where the loss was "
    "{loss:.4g}"
)


class GradientOverflowError(Exception):
    """The gradient of an update is not finite at the scale of its loss.

    Attributes:
        loss: The loss of the update.
    """

    def __init__(self, loss: float) -> None:
        super().__init__(f"the gradient overflowed at a loss of {loss:.4g}")
        self.loss = loss


class LossScale:
    """The factor of the loss, so that gradients lie within the range of float16.

    Its values are those of `torch.amp.GradScaler` with its defaults: 65,536 at first, half of it
    after a gradient with a NaN or Inf, twice of it after 2,000 updates without one. All are powers
    of two, so that multiplying and dividing by them is exact. A gradient that is not finite makes
    no update: no step of the optimizer, of the schedule or of the count of updates.

    Attributes:
        value: The factor.
        finite: The number of gradients in a row that were finite.
        overflows: The number of gradients before this one that were not, in the update that comes
            next.

    Source: Micikevicius et al. 2018, arXiv:1710.03740.
    """

    def __init__(self) -> None:
        self.value = FIRST
        self.finite = 0
        self.overflows = 0

    @property
    def is_least(self) -> bool:
        """Whether no smaller factor is tried."""
        return self.value < LEAST

    def divide(self, parameters: Sequence[Tensor]) -> bool:
        """Divide the gradients of parameters by the factor; return whether all are finite."""
        gradients = [entries(p.grad) for p in parameters if p.grad is not None]
        if not gradients:
            return True
        with torch.no_grad():
            foreach.mul_(gradients, 1 / self.value)
            norms = foreach.norm(gradients, math.inf)
            largest = torch.stack([norm.to(norms[0].device) for norm in norms])
            return bool(torch.isfinite(largest).all())

    def back_off(self) -> None:
        """Take a smaller factor after a gradient that was not finite."""
        self.value, self.finite = self.value * BACKOFF, 0
        self.overflows += 1

    def count(self) -> None:
        """Count a gradient that was finite; take a larger factor when it is time."""
        self.finite, self.overflows = self.finite + 1, 0
        if self.finite >= INTERVAL and math.isfinite(self.value * GROWTH):
            self.value, self.finite = self.value * GROWTH, 0

    def tree(self) -> dict[str, Any]:
        """Return its state, for a checkpoint."""
        return {"value": self.value, "finite": self.finite, "overflows": self.overflows}

    def load(self, saved: Mapping[str, Any] | None) -> None:
        """Restore what `tree` returned; None is the state of the first update.

        Raises:
            StorageError: If it is damaged.
        """
        saved = saved or {"value": FIRST, "finite": 0, "overflows": 0}
        value: Any = saved.get("value")
        counts: list[Any] = [saved.get(name) for name in ("finite", "overflows")]
        scale = isinstance(value, float) and math.isfinite(value) and value > 0
        if not scale or any(type(n) is not int or not 0 <= n <= INTERVAL for n in counts):
            raise StorageError(f"the checkpoint is damaged: its loss scale is {shown(saved)}")
        self.value, (self.finite, self.overflows) = value, counts


def entries(gradient: Tensor) -> Tensor:
    """Return a gradient's values: those of a sparse one are its second part."""
    return sparse_parts(gradient)[1] if gradient.is_sparse else gradient


def refuse_half(model: nn.Module, *, in_turns: bool) -> None:
    """Check that a run with a loss scale can train a model.

    Args:
        model: The network.
        in_turns: Whether its parts are updated in turn.

    Raises:
        TaskError: If weights are in float16 themselves, or parts are updated in turn.
    """
    if in_turns:
        raise TaskError(
            "precision='float16' scales the loss of a whole update, and a step that yields has one "
            "for each part: give precision='bfloat16' or 'float32'"
        )
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.dtype == torch.float16:
            raise TaskError(
                f"precision='float16' computes in float16 and keeps the weights in float32, but "
                f"{name!r} is float16: build the model in float32"
            )
