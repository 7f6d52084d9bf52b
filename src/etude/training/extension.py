"""Checks whether a run can be trained beyond its length, and explains why not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from etude.errors import BadValueError
from etude.record import Status
from etude.training.run import Run

CHECKED = 1_000
"""The number of updates, evenly spread over the rest of the run, at which the rate is checked."""


def refuse_further(run: Run, state: Mapping[str, Any]) -> None:
    """Raise for a length to which a loaded run cannot be continued in a meaningful way.

    Args:
        run: The loaded run, with the requested length.
        state: The state it was loaded from.

    Raises:
        BadValueError: If it has already done more updates, has diverged, has restored its best
            weights, or would continue at a rate of zero.
    """
    if run.length == state.get("length"):
        return
    steps, done = run.recipe.steps, run.step
    if run.length < done:
        raise BadValueError(
            f"steps={steps!r}: the run has already done {done} updates: give at least that many"
        )
    if run.diverged:
        raise BadValueError(
            f"steps={steps!r}: the run diverged ({run.reason}) and cannot continue: start a "
            "new run at a lower rate"
        )
    if run.status == Status.FINISHED:
        raise BadValueError(
            f"steps={steps!r}: the run stopped early after update {done} and restored its best "
            "weights, to which the optimizer's state does not belong: start a new run with "
            f"steps={steps!r}"
        )
    best = None if run.state.early_stopping is None else run.state.early_stopping.best
    if state["status"] == Status.FINISHED and best is not None and best.step != done:
        raise BadValueError(
            f"steps={steps!r}: the run restored its best weights, those after update {best.step}, "
            f"to which the optimizer's state does not belong: start a new run with steps={steps!r}"
        )
    stride = max(1, (run.length - done) // CHECKED)
    if done < run.length and all(
        run.state.lr_schedule(t) == 0 for t in range(done, run.length, stride)
    ):
        raise BadValueError(
            f"steps={steps!r}: the schedule {run.recipe.schedule!r} has ended, and its rate is 0 "
            f"from update {done} on: start a new run with a schedule of the new length, such as "
            "cosine()"
        )
