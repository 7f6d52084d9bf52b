"""A case whose losses are heard: tools that are told the loss of an update need it by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.doctor.case import Case, Edit
from benchmarks.doctor.edits import both
from benchmarks.doctor.loops import alternating
from benchmarks.doctor.setup import Setup


class Heard:
    """The losses that a program has computed since they were last asked for.

    Only those with a gradient count, so that an evaluation is not heard. Of several batches that
    make one update, `update` gives the mean; of a generator and a discriminator, the latter's sum.
    """

    def __init__(self, summed: bool) -> None:
        self.summed, self.since = summed, list[Tensor]()

    def listen(self, setup: Setup) -> Setup:
        """Return the setup with a loss that is heard."""
        loss = setup.loss

        def heard(*given: Any) -> Tensor:
            found = loss(*given)
            if torch.is_grad_enabled():
                self.since.append(found.detach())
            return found

        return replace(setup, loss=heard)

    def update(self) -> float:
        """Return the loss of the update, and forget it; NaN if none was computed."""
        found, self.since = self.since, []
        if not found:
            return float("nan")
        losses = torch.stack(found)
        return float(losses[-2:].sum() if self.summed else losses.mean())


def heard(case: Case) -> tuple[Case, Heard]:
    """Return the same case, to the bit, and what is heard of its losses."""
    ears = Heard(case.program.loop is alternating)
    edit = case.edit or Edit("healthy", both())
    return replace(case, edit=replace(edit, apply=both(edit.apply, ears.listen))), ears
