"""What is read around the steps of one optimizer at a sampled update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.optim import Optimizer

from etude.diagnosis.clearing import Clearing
from etude.diagnosis.layers import LayerTable
from etude.diagnosis.losses import Loss
from etude.diagnosis.sample import ALL, FIRST, Norms, Sample
from etude.diagnosis.statistics import entries, norms, scale_of
from etude.torch_internals import foreach


class Copies:
    """Copies of the entries of some tensors by number, which are written again and again."""

    def __init__(self) -> None:
        self.held: dict[int, Tensor] = {}

    def take(self, numbers: Sequence[int], views: Sequence[Tensor]) -> None:
        """Copy the views, in place of what was held."""
        kept: dict[int, Tensor] = {}
        for number, view in zip(numbers, views, strict=True):
            old = self.held.get(number)
            kept[number] = old if _alike(old, view) else torch.empty_like(view)
        self.held = kept
        if numbers:
            foreach.copy_(list(kept.values()), list(views))


def _alike(old: Tensor | None, new: Tensor) -> TypeGuard[Tensor]:
    if old is None:
        return False
    return (old.shape, old.dtype, old.device) == (new.shape, new.dtype, new.device)


class OptimizerTrack:
    """Follows one optimizer: its losses, and the norms around a sampled step.

    The update read is the difference of the weights before and after the step, whatever the
    optimizer did. Copies are made on sampled updates only, of the entries that are read.

    Args:
        number: The optimizer's number.
        optimizer: The optimizer.
        table: The parameters.
    """

    def __init__(self, number: int, optimizer: Optimizer, table: LayerTable) -> None:
        self.number, self.optimizer, self._table = number, optimizer, table
        self.losses: list[Loss] = []
        self.last_losses: list[Loss] = []
        self._numbers: list[int] = []
        self._counted = -1
        self._before, self._gradients, self._last_gradients = Copies(), Copies(), Copies()
        self._updates: dict[int, Tensor] = {}
        self._previous = -2
        self._scales: dict[int, float] = {}
        self._at_backward: list[Norms] = []
        self._passes = 0
        self._unscale: Tensor | None = None
        self.follow_groups()

    def follow_groups(self) -> None:
        """Take over parameters that were added to the optimizer."""
        count = sum(len(group["params"]) for group in self.optimizer.param_groups)
        if count == self._counted:
            return
        self._counted = count
        holders = self._table.holders()
        wanted = (self.number, None) if self.number == 0 else (self.number,)
        self._numbers = [i for i, holder in enumerate(holders) if holder in wanted]
        own = [self._table.tensors[i] for i, h in enumerate(holders) if h == self.number]
        self.clearing = Clearing(own)

    def trained(self) -> list[Tensor]:
        """Return the parameters that the optimizer changes."""
        return [self._table.tensors[number] for number in self._trained()]

    def _trained(self) -> list[int]:
        return [i for i in self._numbers if self._table.tensors[i].requires_grad]

    def _read_grads(self) -> tuple[list[int], list[Tensor]]:
        """Return the numbers of the parameters that have a gradient, and its entries."""
        numbers, views = [], []
        for number in self._trained():
            grad = self._table.tensors[number].grad
            if grad is not None:
                view = entries(grad)
                numbers.append(number)
                views.append(view)
                self._scales[number] = scale_of(grad, view)
        return numbers, views

    def after_backward(self, *, unscaled: bool) -> None:
        """Read the norms of the gradients as the backward pass left them, if they have no scale.

        Kept are those of the first pass of an update, and of the last.
        """
        self._passes += 1
        del self._at_backward[1:]
        if unscaled:
            numbers, views = self._read_grads()
            if numbers:
                name = ALL if self._at_backward or self._passes > 1 else FIRST
                self._at_backward.append(Norms({name: numbers}, norms(views)))

    def before_step(self, sample: Sample, closure: bool) -> None:
        """Copy gradients and weights; a closure computes its gradients later."""
        self.follow_groups()
        if not closure:
            self._copy_gradients()
        numbers = self._trained()
        self._before.take(numbers, [entries(self._table.tensors[i]) for i in numbers])
        sample.skipped = _found_inf(self.optimizer)

    def _copy_gradients(self) -> None:
        self._gradients, self._last_gradients = self._last_gradients, self._gradients
        self._gradients.take(*self._read_grads())
        self._unscale = _unscale(self.optimizer)

    def after_step(self, sample: Sample, closure: bool) -> None:
        """Read the norms of gradients, weights, and the update that was really made."""
        if closure:
            self._copy_gradients()
        numbers = [i for i in self._trained() if i in self._before.held]
        tensors = [self._table.tensors[i] for i in numbers]
        read = [entries(tensor) for tensor in tensors]
        for number, tensor, view in zip(numbers, tensors, read, strict=True):
            self._scales.setdefault(number, scale_of(tensor, view))
        made = foreach.sub(read, [self._before.held[i] for i in numbers]) if numbers else []
        updates = dict(zip(numbers, made, strict=True))
        gradients = self._gradients.held
        parts = {"gradients": gradients, "weights": dict(zip(numbers, read, strict=True)),
                 "updates": updates}  # fmt: skip
        if self._previous == sample.update - 1:
            parts["gradient_sums"] = _sums(gradients, self._last_gradients.held)
            parts["update_sums"] = _sums(updates, self._updates)
        flat = [tensor for part in parts.values() for tensor in part.values()]
        if flat:
            names = {name: list(part) for name, part in parts.items()}
            sample.norms.append(Norms(names, norms(flat), self._unscale))
            sample.scales.update(self._scales)
        if self._at_backward and self._unscale is None:
            sample.norms += self._at_backward
            sample.passes = self._passes
        self._at_backward, self._passes = [], 0
        self._updates, self._previous = updates, sample.update


def _sums(now: dict[int, Tensor], before: dict[int, Tensor]) -> dict[int, Tensor]:
    """Return the sums of the tensors that both have, by number."""
    numbers = [i for i in now if i in before and before[i].shape == now[i].shape]
    if not numbers:
        return {}
    both = foreach.add([before[i] for i in numbers], [now[i] for i in numbers])
    return dict(zip(numbers, both, strict=True))


def _unscale(optimizer: Any) -> Tensor | None:
    """Return what undoes the scale of a `GradScaler` that a fused optimizer divides by itself."""
    scale = getattr(optimizer, "grad_scale", None)
    return 1.0 / scale if isinstance(scale, Tensor) else None


def _found_inf(optimizer: Any) -> Tensor | None:
    """Return whether a fused optimizer leaves out this step, as its `GradScaler` told it."""
    found = getattr(optimizer, "found_inf", None)
    return found.clone() if isinstance(found, Tensor) else None


def is_adaptive(optimizers: Sequence[Any]) -> bool:
    """Return whether every optimizer scales its update by the size of the gradient itself.

    >>> weights = [torch.nn.Parameter(torch.ones(1))]
    >>> is_adaptive([torch.optim.SGD(weights)]), is_adaptive([torch.optim.AdamW(weights)])
    (False, True)
    """
    words = ("ada", "lion", "muon", "sign", "rms", "lamb", "prodigy", "sophia", "rprop", "soap",
             "shampoo", "lars", "adopt", "lbfgs", "newton")  # fmt: skip
    names = [type(one).__name__.lower() for one in optimizers]
    return bool(names) and all(any(word in name for word in words) for name in names)
