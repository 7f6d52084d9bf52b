"""Whether the gradients of an optimizer were cleared between two of its updates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from etude.torch_internals import version_of

Mark = tuple[int, int] | None


class Clearing:
    """Follows the gradients of the smallest parameters of one optimizer.

    After each step and each backward pass the place in memory and the version of these gradients
    are noted. Where a backward pass starts and they are as they were noted, nobody has cleared
    them since. An update is *uncleared* if this was so at the start of every backward pass since
    the step before, and the gradients were not zero. Setting a gradient to None, zeroing it,
    clipping it or replacing it all change what was noted; such an update counts as cleared.

    Args:
        parameters: The parameters that the optimizer holds.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._usable = [p for p in parameters if p.numel()]
        self._parameters: list[Tensor] = []
        self._marks: list[Mark] = []
        self._cleared = True
        self._changed = False
        self._left: list[Tensor] = []

    def stepped(self) -> None:
        """Note the gradients after a step."""
        self._note()
        self._cleared = all(mark is None for mark in self._marks)
        self._left.clear()
        self._changed = False

    def before_backward(self, *, sampled: bool) -> None:
        """Compare the gradients at the start of a backward pass, and note them as they are now.

        A new gradient may get the memory of the one that was cleared, so that only what is noted
        here shows whether this pass reaches a parameter.
        """
        marks = self._marks
        self._note()
        if self._cleared:
            return
        for parameter, mark in zip(self._parameters, marks, strict=True):
            if mark is not None and _mark(parameter) != mark:
                self._cleared = True
                self._left.clear()
                return
            if sampled and mark is not None and parameter.grad is not None:
                grad = parameter.grad.detach()
                self._left.append((grad.coalesce().values() if grad.is_sparse else grad).any())

    def after_backward(self) -> bool:
        """Note the gradients after a backward pass; return whether it changed them."""
        if not self._parameters:  # those that the first backward pass reaches
            reached = [p for p in self._usable if p.grad is not None]
            self._parameters = sorted(reached, key=lambda p: p.numel())[:2]
            self._note()
            self._changed = bool(reached)
            return self._changed
        before = self._marks
        self._note()
        changed = self._marks != before
        self._changed = self._changed or changed
        return changed

    def cleared_early(self) -> float:
        """Return 1 if a backward pass gave gradients that were changed or removed before this step.

        Clipping changes them too, so that it proves nothing alone.
        """
        return float(self._changed and [_mark(p) for p in self._parameters] != self._marks)

    def uncleared(self) -> Tensor | float:
        """Return 1 if nothing was cleared since the last step, else 0; NaN if it is not known."""
        if self._cleared:
            return 0.0
        return torch.stack(self._left).all().float() if self._left else float("nan")

    def _note(self) -> None:
        self._marks = [_mark(parameter) for parameter in self._parameters]


def _mark(parameter: Tensor) -> Mark:
    grad = parameter.grad
    if grad is None:
        return None
    place = grad.data_ptr() if grad.layout == torch.strided else id(grad)
    return place, version_of(grad)
