"""How the loss of a batch divides over its samples, read where the loss jumps."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from etude.diagnosis.evidence.loss_graph import losses_of
from etude.diagnosis.history import LargestSample

FIRST, SIGMAS, MEMORY = 50, 5.0, 50
"""From the update FIRST on, a loss jumps if it is SIGMAS standard deviations above the mean of the
last ones, which are weighed as in an average over MEMORY updates."""

MOST = 64
"""How many jumps are read."""

COMPARED = ("nll_loss", "cross_entropy", "mse_loss", "binary_cross_entropy",
            "binary_cross_entropy_with_logits")  # fmt: skip
"""The losses of torch without options beyond those that the graph shows."""


class SpreadReader:
    """Reads the losses of single samples from the graph, in updates whose loss jumps.

    Attributes:
        found: What was read, by update.

    >>> reader = SpreadReader()
    >>> target = torch.zeros(4)
    >>> for update in range(61):
    ...     output = torch.full((4,), 1 + 0.01 * (update % 3), requires_grad=True)
    ...     with torch.no_grad():
    ...         _ = output[0].fill_(9.0) if update == 60 else None
    ...     reader.read(update, functional.mse_loss(output, target))
    >>> [(one.update, round(one.share, 2), one.rows) for one in reader.found.values()]
    [(60, 0.96, 4)]
    """

    def __init__(self) -> None:
        self.found: dict[int, LargestSample] = {}
        self._mean = self._variance = 0.0
        self._seen = 0

    def read(self, update: int, tensors: Any) -> None:
        """Read a backward pass on the CPU, where a loss is there without waiting.

        Args:
            update: The update, counted from 0.
            tensors: What `backward` was called for.
        """
        loss = tensors if isinstance(tensors, Tensor) else next(iter(tensors), None)
        if not isinstance(loss, Tensor) or loss.numel() != 1 or len(self.found) >= MOST:
            return
        value = loss.item()
        if self._jumps(value) and update not in self.found:
            share = largest_share(loss)
            if share is not None:
                self.found[update] = LargestSample(update, *share)

    def _jumps(self, value: float) -> bool:
        """Return whether a loss jumps, and let it count for the next ones, up to where it does."""
        if not math.isfinite(value):
            return False
        bound = self._mean + SIGMAS * math.sqrt(self._variance)
        jumps = self._seen >= FIRST and value > bound
        weight = 1 / min(self._seen + 1, MEMORY)
        self._seen += 1
        off = (bound if jumps else value) - self._mean
        self._mean += weight * off
        self._variance = (1 - weight) * (self._variance + weight * off * off)
        return jumps


def largest_share(loss: Tensor) -> tuple[float, int] | None:
    """Return the largest row's share of a loss, and the number of rows.

    None if the loss is not the mean of one of torch's losses without weights, or is not positive.

    >>> scores = torch.tensor([[0.0, 0.0], [9.0, 0.0]], requires_grad=True)
    >>> share, rows = largest_share(functional.cross_entropy(scores, torch.tensor([0, 1])))
    >>> round(share, 2), rows
    (0.93, 2)
    """
    found = losses_of(loss)
    if len(found) != 1 or not found[0].plain or found[0].call.name not in COMPARED:
        return None
    call = found[0].call
    scores, target = call.scores.detach(), call.target.detach()
    with torch.no_grad():
        if call.name in ("nll_loss", "cross_entropy"):
            ignored = call.options["ignore_index"]
            each = functional.nll_loss(scores, target, ignore_index=ignored, reduction="none")
        else:
            each = getattr(functional, call.name)(scores, target, reduction="none")
        if not each.ndim:
            return None
        rows = each.reshape(len(each), -1).sum(1, dtype=torch.float64)
        whole = rows.sum().item()
    return (rows.max().item() / whole, len(rows)) if 0 < whole < math.inf else None
