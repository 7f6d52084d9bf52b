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
    Zeroing it through `.data` changes nothing that was noted. In sampled updates it is seen by the
    values: gradients that are all 0 are cleared if they were not after the backward pass.

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
        self._given: Tensor | None = None

    def stepped(self) -> None:
        """Note the gradients after a step."""
        self._note()
        self._cleared = all(mark is None for mark in self._marks)
        self._left.clear()
        self._changed, self._given = False, None

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
                self._left.append(_not_zero(parameter.grad))

    def after_backward(self, *, sampled: bool) -> bool:
        """Note the gradients after a backward pass; return whether it changed them."""
        if not self._parameters:  # those that the first backward pass reaches
            reached = [p for p in self._usable if p.grad is not None]
            self._parameters = sorted(reached, key=lambda p: p.numel())[:2]
            self._note()
            changed = bool(reached)
        else:
            before = self._marks
            self._note()
            changed = self._marks != before
        self._changed = self._changed or changed
        if sampled and changed:
            self._given = self._any()
        return changed

    def cleared_early(self) -> Tensor | float:
        """Return 1 if a backward pass gave gradients that were changed or removed before this step.

        Clipping changes them too, so that it proves nothing alone.
        """
        if not self._changed:
            return 0.0
        if [_mark(p) for p in self._parameters] != self._marks:
            return 1.0
        now = self._any()
        return 0.0 if self._given is None or now is None else (self._given & ~now).float()

    def uncleared(self) -> Tensor | float:
        """Return 1 if nothing was cleared since the last step, else 0; NaN if it is not known."""
        if self._cleared:
            return 0.0
        return _together(self._left).all().float() if self._left else float("nan")

    def _note(self) -> None:
        self._marks = [_mark(parameter) for parameter in self._parameters]

    def _any(self) -> Tensor | None:
        """Return whether a gradient is not 0; None if there is none."""
        known = [_not_zero(p.grad) for p in self._parameters if p.grad is not None]
        return _together(known).any() if known else None


def _together(flags: Sequence[Tensor]) -> Tensor:
    """Return flags as one tensor; those of a network that lies on several devices on the first."""
    return torch.stack([flag.to(flags[0].device) for flag in flags])


def _mark(parameter: Tensor) -> Mark:
    grad = parameter.grad
    if grad is None:
        return None
    place = grad.data_ptr() if grad.layout == torch.strided else id(grad)
    return place, version_of(grad)


def _not_zero(grad: Tensor) -> Tensor:
    """Return whether an entry of a gradient is not 0, without waiting for the device."""
    grad = grad.detach()
    return (grad.coalesce().values() if grad.is_sparse else grad).any()
