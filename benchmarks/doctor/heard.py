"""A case whose losses are heard: tools that are told the loss of an update need it by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.doctor.case import Case, Edit
from benchmarks.doctor.edits import both
from benchmarks.doctor.loops import Loop, alternating, by_closure
from benchmarks.doctor.setup import Setup


class Heard:
    """The losses that a program has computed since they were last asked for.

    Only those with a gradient count, so that an evaluation is not heard.

    Args:
        one: Gives the loss of an update from those since the last one.
    """

    def __init__(self, one: Callable[[Tensor], Tensor]) -> None:
        self.one, self.since = one, list[Tensor]()

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
        return float(self.one(torch.stack(found)))


OF_LOOP: Mapping[Loop, Callable[[Tensor], Tensor]] = {
    alternating: lambda losses: losses[-2:].sum(),
    by_closure: lambda losses: losses[0],
}
"""The loss of an update: of a discriminator, the sum over true and generated points; of a closure
that is called several times, the first. Of other loops, the mean over the batches."""


def heard(case: Case) -> tuple[Case, Heard]:
    """Return the same case, to the bit, and what is heard of its losses."""
    ears = Heard(OF_LOOP.get(case.program.loop, torch.mean))
    edit = case.edit or Edit("healthy", both())
    return replace(case, edit=replace(edit, apply=both(edit.apply, ears.listen))), ears
