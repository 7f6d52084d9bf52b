"""The losses of a loop, read where its backward passes start."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from etude.training.observers import read_numbers

Loss: TypeAlias = Tensor | float


class Losses:
    """Collects the losses of each update, and reads them late.

    On the CPU a loss is read at once, which costs nothing; on an accelerator a copy is kept there.
    """

    def __init__(self) -> None:
        self._scaled: list[tuple[weakref.ref[Tensor], Tensor]] = []
        self._waiting: list[tuple[int, list[Loss]]] = []
        self._values: list[float] = []
        self._broken: int | None = None
        self._last = -1
        self.amp = False

    @property
    def broken_from(self) -> int | None:
        """The update from which all losses read, two at least, are not finite; None if none is."""
        return self._broken if self._broken is not None and self._last > self._broken else None

    def scaled(self, given: Any, result: Any) -> None:
        """Remember which loss a `GradScaler` has scaled."""
        if isinstance(given, Tensor) and isinstance(result, Tensor) and given is not result:
            self.amp = True
            self._scaled = [(weakref.ref(result), given.detach()), *self._scaled[:3]]

    def of(self, tensors: Any) -> Loss | None:
        """Return the loss of a backward pass, before any scaling; None if it is not one number."""
        listed = [tensors] if isinstance(tensors, Tensor) else list(tensors)
        found = [self._unscaled(t) for t in listed if isinstance(t, Tensor) and t.numel() == 1]
        if not found or len(found) < len(listed):
            return None
        total = found[0] if len(found) == 1 else torch.stack([t.reshape(()) for t in found]).sum()
        return kept(total)

    def _unscaled(self, tensor: Tensor) -> Tensor:
        for ref, given in self._scaled:
            if ref() is tensor:
                return given
        return tensor.detach()

    def add(self, update: int, losses: Sequence[Loss]) -> None:
        """Note the losses of the backward passes of an update."""
        self._waiting.append((update, list(losses)))
        if len(self._waiting) >= 4096:
            self.read()

    def read(self) -> list[float]:
        """Return the mean loss of each update so far, NaN where there is none."""
        flat = [value for _, losses in self._waiting for value in losses]
        numbers = iter(read_numbers(flat))
        for update, losses in self._waiting:
            if not losses:
                continue
            mean = [next(numbers) for _ in losses]
            finite = [value for value in mean if math.isfinite(value)]
            if self.amp and finite:
                mean = finite  # the others overflowed, and their step was left out
            self._values += [math.nan] * (update + 1 - len(self._values))
            self._values[update] = sum(mean) / len(mean)
            if math.isfinite(self._values[update]):
                self._broken = None
            elif self._broken is None:
                self._broken = update
            self._last = update
        self._waiting.clear()
        return self._values


def kept(loss: Any) -> Loss:
    """Return a loss as a number, or as a copy on its device.

    >>> kept(torch.tensor(2.0, requires_grad=True)), kept(3)
    (2.0, 3.0)
    """
    if isinstance(loss, Tensor):
        loss = loss.detach()
        if loss.numel() != 1 or loss.is_complex():
            return math.nan
        return float(loss) if loss.is_cpu else loss.clone().reshape(())
    return float(loss)
