"""Statistics of the outputs and targets that a loss compares, at sampled updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional

from etude.diagnosis.check.outputs import output_fault
from etude.diagnosis.evidence.loss_graph import GraphLoss, differences_of, losses_of
from etude.diagnosis.finding import Cause
from etude.diagnosis.history import Floats, OutputFault, RunQuantity
from etude.diagnosis.watching.statistics import variance_and_mean
from etude.tasks.loss.loss_calls import LossCall

COLUMNS = 256
"""With more classes or numbers per sample than this, the targets are not read."""

ROWS = 1024
"""How many samples of a batch are read."""

MOST_MEANS = 2_048
"""With the means of more updates than this, every second one is dropped."""

KNOWN = 16
"""In how many sampled updates it is looked at what the loss is given."""


class TargetReader:
    """Reads the loss of each sampled update where its backward pass starts.

    Classes are read as columns of 0 and 1, one per class, so that classes and numbers have the
    same statistics: the mean of each column, and the variance within the batch.

    Attributes:
        loss: The name of the loss; empty if none of torch's was seen, or several.
        means: Update -> the mean of each column of the targets.
        faults: What was wrong with what the loss was given, in each update that was looked at.
    """

    def __init__(self) -> None:
        self.loss = ""
        self.means: dict[int, Tensor] = {}
        self.faults: list[OutputFault | None] = []

    def read(self, update: int, tensors: Any) -> dict[RunQuantity, Tensor | float]:
        """Return the readings of a backward pass.

        Args:
            update: The update, counted from 0.
            tensors: What `backward` was called for.
        """
        loss = tensors if isinstance(tensors, Tensor) else next(iter(tensors), None)
        found = losses_of(loss)
        if len(self.faults) < KNOWN:
            self.faults.append(_fault(found, loss))
        if len(found) != 1:
            return {}
        self.loss = found[0].call.name
        return self._statistics(update, found[0])

    def _statistics(self, update: int, found: GraphLoss) -> dict[RunQuantity, Tensor | float]:
        call = found.call
        if not call.target.numel() or not call.scores.is_floating_point():
            return {}
        scores, target = call.scores.detach()[:ROWS], call.target[:ROWS]
        columns = columns_of(call, target)
        if columns is None:
            return {}
        classes = call.name in ("cross_entropy", "nll_loss")
        readings: dict[RunQuantity, Tensor | float] = {
            RunQuantity.OUTPUT_SIZE: size_of_outputs(scores, classes),
            RunQuantity.TARGET_COUNT: float(len(columns)),
        }
        few = len(columns) < 2
        variance, mean = variance_and_mean(columns, 0, correction=0 if few else 1)
        self.means[update] = mean
        if len(self.means) > MOST_MEANS:
            self.means = dict(list(self.means.items())[::2])
        readings[RunQuantity.TARGET_WITHIN] = variance.sum()
        if not classes and not few:
            readings[RunQuantity.TARGET_REACH] = (columns - mean).abs().max()
        if found.plain:
            readings[RunQuantity.PLAIN_LOSS] = _plain(call, scores.float(), target)
        return readings

    def fields(self, steps: Sequence[int]) -> Mapping[str, Any]:
        """Return what a history holds of it, for some sampled updates."""
        widths = {len(mean) for mean in self.means.values()}
        means: Floats = np.full((len(steps), max(widths, default=0)), np.nan)
        if len(widths) == 1:
            for row, step in enumerate(steps):
                if int(step) in self.means:
                    means[row] = self.means[int(step)].tolist()
        last = self.faults[-3:]
        same = len(last) == 3 and len({None if f is None else f.cause for f in last}) == 1
        return {
            "loss_name": self.loss if len(widths) <= 1 else "",
            "target_means": means,
            "output_fault": last[-1] if same else None,
        }


def columns_of(call: LossCall, target: Tensor) -> Tensor | None:
    """Return targets as numbers (samples, columns); None if there are too many, or none is known.

    >>> import torch
    >>> logits = torch.zeros(3, 2)
    >>> columns_of(LossCall("cross_entropy", logits, torch.tensor([0, 1, 1]), {}),
    ...            torch.tensor([0, 1, 1])).tolist()
    [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    """
    if call.name in ("cross_entropy", "nll_loss"):
        count = call.scores.shape[1] if call.scores.ndim > 1 else 0
        if target.is_floating_point() or not 1 < count <= COLUMNS:
            return None
        known = (target >= 0) & (target < count)
        hot = functional.one_hot(target.clamp(0, count - 1), count) * known[..., None]
        return hot.reshape(-1, count).float()
    if not target.is_floating_point() or not target.ndim:
        return None
    flat = target.detach().reshape(len(target), -1).float()
    return flat if flat.shape[1] <= COLUMNS else None


def size_of_outputs(scores: Tensor, classes: bool) -> Tensor:
    """Return the root mean square of outputs; of logits around each sample's mean."""
    scores = scores.float()
    if classes:
        scores = scores - scores.mean(1, keepdim=True)
    return scores.square().mean().sqrt()


def _plain(call: LossCall, scores: Tensor, target: Tensor) -> Tensor:
    """Return the loss of the rows that are read."""
    if call.name in ("cross_entropy", "nll_loss"):
        return functional.nll_loss(scores, target, ignore_index=call.options["ignore_index"])
    given = getattr(functional, call.name)
    return given(scores, target.float())  # type: ignore[no-any-return]


def _fault(found: Sequence[GraphLoss], loss: Any) -> OutputFault | None:
    """Return what is wrong with what the loss is given; None if nothing is."""
    for one in found:
        fault = output_fault(one.call, one.made)
        if fault is not None:
            return OutputFault(str(fault.what), fault.text, dict(fault.evidence), fault.fix)
    grown = differences_of(loss)
    if grown is None:
        return None
    count = grown.made[0]
    return OutputFault(
        str(Cause.WRONG_LOSS_OR_OUTPUT),
        f"The loss subtracts the targets of all samples from each output: outputs of shape "
        f"{grown.output} make {count}×{count} differences.",
        {"output": str(grown.output), "differences": str(grown.made)},
        "Give outputs and targets one shape: squeeze the output's last axis, or unsqueeze "
        "the targets.",
    )
