"""What is read around the steps of one optimizer at a sampled update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from etude.diagnosis.clearing import Clearing
from etude.diagnosis.layers import LayerTable
from etude.diagnosis.losses import Loss
from etude.diagnosis.sample import Sample
from etude.diagnosis.statistics import entries, norms, scale_of
from etude.torch_internals import foreach


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
        self._before: dict[int, Tensor] = {}
        self._gradients: dict[int, Tensor] = {}
        self._updates: dict[int, Tensor] = {}
        self._previous = -2
        self._at_backward: Tensor | None = None
        self._backward_numbers: list[int] = []
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

    def _trained(self) -> list[int]:
        return [i for i in self._numbers if self._table.tensors[i].requires_grad]

    def after_backward(self, *, unscaled: bool) -> None:
        """Read the norms of the gradients as the backward pass left them, if they have no scale."""
        self._at_backward = None
        if not unscaled:
            return
        numbers = [i for i in self._trained() if self._table.tensors[i].grad is not None]
        self._backward_numbers = numbers
        if numbers:
            self._at_backward = norms([entries(self._grad(i)) for i in numbers])

    def _grad(self, number: int) -> Tensor:
        grad = self._table.tensors[number].grad
        assert grad is not None
        return grad

    def before_step(self, sample: Sample, closure: bool) -> None:
        """Read the gradients and copy the weights; a closure computes its gradients later."""
        self.follow_groups()
        if not closure:
            self._read_gradients(sample)
        numbers = self._trained()
        views = [entries(self._table.tensors[i]) for i in numbers]
        if any(i not in self._before or self._before[i].shape != view.shape
               for i, view in zip(numbers, views, strict=True)):  # fmt: skip
            self._before = {i: torch.empty_like(v) for i, v in zip(numbers, views, strict=True)}
        if numbers:
            foreach.copy_([self._before[i] for i in numbers], views)
        sample.skipped = _found_inf(self.optimizer)

    def _read_gradients(self, sample: Sample) -> None:
        numbers = [i for i in self._trained() if self._table.tensors[i].grad is not None]
        if not numbers:
            return
        grads = [self._grad(i) for i in numbers]
        read = [entries(grad) for grad in grads]
        scales = [scale_of(g, r) for g, r in zip(grads, read, strict=True)]
        own = norms(read)
        clipped = None
        if self._at_backward is not None and self._backward_numbers == numbers:
            clipped = _clipped(self._at_backward, own)
        self._at_backward = None
        unscale = _unscale(self.optimizer)
        sample.gradients.append((numbers, scales, own if unscale is None else own * unscale))
        if clipped is not None and unscale is None:
            sample.clipped.append(clipped)
        known = self._gradients if self._previous == sample.update - 1 else {}
        sums = [
            i
            for i, r in zip(numbers, read, strict=True)
            if i in known and known[i].shape == r.shape
        ]
        if sums:
            pairs = dict(zip(numbers, read, strict=True))
            both = foreach.add([known[i] for i in sums], [pairs[i] for i in sums])
            sample.gradient_sums.append((sums, norms(both)))
        self._gradients = {i: r.clone() for i, r in zip(numbers, read, strict=True)}

    def after_step(self, sample: Sample, closure: bool) -> None:
        """Read the weights and the update that was really made."""
        if closure:
            self._read_gradients(sample)
        numbers = [i for i in self._trained() if i in self._before]
        if not numbers:
            return
        tensors = [self._table.tensors[i] for i in numbers]
        read = [entries(tensor) for tensor in tensors]
        made = foreach.sub(read, [self._before[i] for i in numbers])
        scales = [scale_of(t, r) for t, r in zip(tensors, read, strict=True)]
        found = norms([*read, *made])
        sample.weights.append((numbers, scales, found[: len(numbers)]))
        sample.updates.append((numbers, scales, found[len(numbers) :]))
        if self._previous == sample.update - 1:
            sums = [i for i in numbers if i in self._updates]
            if sums:
                now = dict(zip(numbers, made, strict=True))
                both = foreach.add([self._updates[i] for i in sums], [now[i] for i in sums])
                sample.update_sums.append((sums, norms(both)))
        self._updates = dict(zip(numbers, made, strict=True))
        self._previous = sample.update


def _clipped(before: Tensor, after: Tensor) -> Tensor:
    """Return 1 if the gradients became smaller between backward pass and step, else 0.

    They count as clipped if none grew and their total norm fell by more than a thousandth.
    """
    grew = (after > before * 1.001).any()
    fell = after.square().sum() < 0.998 * before.square().sum()
    return (fell & ~grew).float()


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
