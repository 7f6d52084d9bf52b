"""What is read around the steps of one optimizer at a sampled update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from etude.diagnosis.watching.clearing import Clearing
from etude.diagnosis.watching.layers import LayerTable
from etude.diagnosis.watching.losses import Loss
from etude.diagnosis.watching.sample import ALL, FIRST, Norms, Sample
from etude.diagnosis.watching.statistics import Entries, EntryLayout


class OptimizerTrack:
    """Follows one optimizer: its losses, and the norms around a sampled step.

    The update read is the difference of the weights before and after the step, whatever the
    optimizer did. Copies are made on sampled updates only, of the entries that are read, into
    buffers that are written again and again.

    Args:
        number: The optimizer's number.
        optimizer: The optimizer.
        table: The parameters.
    """

    def __init__(self, number: int, optimizer: Optimizer, table: LayerTable) -> None:
        self.number, self.optimizer, self._table = number, optimizer, table
        self.losses: list[Loss] = []
        self.last_losses: list[Loss] = []
        self._counted = -1
        self._begun = False
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
        numbers = [i for i, holder in enumerate(holders) if holder in wanted]
        self._numbers = np.array(numbers, np.int64)
        self._tensors = [self._table.tensors[i] for i in numbers]
        self._layout = EntryLayout(self._tensors)
        self._scales = np.array(self._layout.scales)
        self._backward, self._before, self._after = (Entries(self._layout) for _ in range(3))
        self._gradients, self._last_gradients = Entries(self._layout), Entries(self._layout)
        # Large tensors that are made anew cost more than all else: memory is mapped page by page.
        self._update, self._last_update, *self._sums = (
            torch.empty_like(self._before.rows) for _ in range(4)
        )
        self._held: list[int] = []
        self._known: dict[str, list[int]] = {"gradients": [], "updates": []}
        self._last_known = self._known
        self._previous = -2
        self.clearing = Clearing(
            [self._table.tensors[i] for i, h in enumerate(holders) if h == self.number]
        )

    def trained(self) -> list[Tensor]:
        """Return the parameters that the optimizer changes."""
        return [tensor for tensor in self._tensors if tensor.requires_grad]

    def _trained(self) -> list[int]:
        return [place for place, tensor in enumerate(self._tensors) if tensor.requires_grad]

    def _copy_grads(self, into: Entries) -> list[int]:
        """Copy the entries of the gradients that exist; return whose they are."""
        pairs = [
            (place, tensor.grad)
            for place, tensor in enumerate(self._tensors)
            if tensor.grad is not None and tensor.requires_grad
        ]
        places = [place for place, _ in pairs]
        into.copy(places, [grad for _, grad in pairs])
        return places

    def after_backward(self, *, unscaled: bool) -> None:
        """Read the norms of the gradients as the backward pass left them, if they have no scale.

        Kept are those of the first pass of an update, and of the last.
        """
        self._passes += 1
        del self._at_backward[1:]
        if unscaled:
            with torch.no_grad():
                places = self._copy_grads(self._backward)
                values = self._layout.norms([self._backward.rows])
            if places:
                name = ALL if self._at_backward or self._passes > 1 else FIRST
                self._at_backward.append(
                    Norms(values, [name], {name: places}, self._numbers, self._scales)
                )

    def before_step(self, sample: Sample, closure: bool) -> None:
        """Copy gradients and weights; a closure computes its gradients later."""
        self.follow_groups()
        if not closure:
            self._copy_gradients()
        self._held = self._trained()
        self._before.copy(self._held, [self._tensors[place] for place in self._held])
        sample.skipped = _found_inf(self.optimizer)

    def _copy_gradients(self) -> None:
        self._gradients, self._last_gradients = self._last_gradients, self._gradients
        self._last_known, self._known = self._known, {}
        self._known["gradients"] = self._copy_grads(self._gradients)
        self._unscale = _unscale(self.optimizer)

    def after_step(self, sample: Sample, closure: bool) -> None:
        """Read the norms of gradients, weights, and the update that was really made."""
        if closure:
            self._copy_gradients()
        places = [place for place in self._held if self._tensors[place].requires_grad]
        self._after.copy(places, [self._tensors[place] for place in places])
        self._update, self._last_update = self._last_update, self._update
        gradients = self._gradients.rows
        update = torch.sub(self._after.rows, self._before.rows, out=self._update)
        known = self._known = {**self._known, "weights": places, "updates": places}
        parts = {"gradients": gradients, "weights": self._after.rows, "updates": update}
        if not self._begun:
            self._begun = True
            known["starts"], parts["starts"] = self._held, self._before.rows
        if self._previous == sample.update - 1:
            for name, now, before, whole in (
                ("gradient", gradients, self._last_gradients.rows, self._sums[0]),
                ("update", update, self._last_update, self._sums[1]),
            ):
                last = set(self._last_known.get(f"{name}s", ()))
                both = [place for place in known[f"{name}s"] if place in last]
                known[f"{name}_sums"] = [p for p in both if not self._is_sparse(p, name)]
                parts[f"{name}_sums"] = torch.add(now, before, out=whole)
        if places or known["gradients"]:
            values = self._layout.norms(list(parts.values()))
            sample.norms.append(
                Norms(values, list(parts), known, self._numbers, self._scales, self._unscale)
            )
        if self._at_backward and self._unscale is None:
            sample.norms += self._at_backward
            sample.passes = self._passes
        self._at_backward, self._passes = [], 0
        self._previous = sample.update

    def _is_sparse(self, place: int, name: str) -> bool:
        """Return whether the values of two gradients may belong to different entries."""
        grad = self._tensors[place].grad
        return name == "gradient" and grad is not None and grad.is_sparse


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
