"""How a loss reads an output and its target, so that metrics of class scores read them alike."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from etude.randomness import random_state_kept
from etude.tasks.loss.loss_calls import LossCall, LossCalls

OF_CLASSES = ("cross_entropy", "nll_loss")
"""Names of the losses of one class per target, whose scores have their classes on axis 1."""


@dataclass(frozen=True)
class Reading:
    """How a loss reads outputs and targets, where their shapes do not tell.

    Attributes:
        shares: Whether the outputs are probabilities of two classes, or of labels: one half
            divides them. Without it they are logits, divided by 0.
        mixed: Whether a target is the probabilities of all classes, such as a one-hot row.
        inner: Whether the classes are on axis 1 of more than two, and not on the last.

    >>> Reading(mixed=True).of(torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 1.0]]))[1]
    tensor([2])
    """

    shares: bool = False
    mixed: bool = False
    inner: bool = False

    def of(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return an output and a target as metrics read them: logits, or classes on the last axis.

        Args:
            output: As the model gave it.
            target: As the data has it.
        """
        if self.shares:
            output = output - 0.5
        if self.mixed:
            target = target.argmax(1)
        return (output.movedim(1, -1) if self.inner else output), target


def reading_of(loss: Callable[..., Any] | None, output: Any, target: Any) -> Reading:
    """Return how a loss reads an output, from the loss of torch that it calls on it.

    The loss is called once more if the shapes leave it open. A loss that calls none of torch's on
    the output itself reads logits.

    Args:
        loss: The loss of a task; it does not change, nor does the random state.
        output: The output of a batch.
        target: Its target.

    >>> half = torch.full((4,), 0.5)
    >>> reading_of(nn.BCELoss(), half, torch.ones(4)).shares
    True
    >>> reading_of(nn.BCEWithLogitsLoss(), half, torch.ones(4)).shares
    False
    """
    if loss is None or not isinstance(output, Tensor) or not isinstance(target, Tensor):
        return Reading()
    if not (output.is_floating_point() and _is_open(output, target)):
        return Reading()
    own = copy.deepcopy(loss) if isinstance(loss, nn.Module) else loss
    with random_state_kept(), torch.no_grad(), LossCalls() as calls:
        try:
            own(output, target)
        except Exception:  # noqa: BLE001  (the user's own code can raise anything)
            return Reading()
    seen = next((call for call in calls.seen if _is_same(call.scores, output)), None)
    return Reading() if seen is None else _told(seen, output, target)


def _is_open(output: Tensor, target: Tensor) -> bool:
    """Return whether the shapes of an output and its target leave more than one reading."""
    return output.shape in (target.shape, (*target.shape, 1)) or output.ndim > 2


def _is_same(scores: Tensor, output: Tensor) -> bool:
    """Return whether scores are an output, or the same numbers in another shape."""
    if scores is output:
        return True
    try:
        return scores.numel() == output.numel() and scores.data_ptr() == output.data_ptr()
    except RuntimeError:  # some tensors, such as those under vmap, have no memory of their own
        return False


def _told(call: LossCall, output: Tensor, target: Tensor) -> Reading:
    if call.name == "binary_cross_entropy":
        return Reading(shares=True)
    if call.name not in OF_CLASSES or call.scores.shape != output.shape or output.ndim < 2:
        return Reading()
    mixed = target.shape == output.shape and target.is_floating_point()
    return Reading(mixed=mixed, inner=output.ndim > 2)
