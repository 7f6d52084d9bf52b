"""Training a run further than it was meant to go: where that means nothing, it is said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from etude.errors import BadValueError
from etude.record import Status
from etude.training.run import Run

LOOKED = 1_000
"""Updates, evenly spread over what is left, at which the rate is looked at."""


def refuse_further(run: Run, state: Mapping[str, Any]) -> None:
    """Refuse a length at which a loaded run could not go on in a meaningful way.

    Args:
        run: As it was loaded, in the length asked for.
        state: What it was loaded from.

    Raises:
        BadValueError: If it has done more updates already, has diverged, has put its best weights
            back, or would go on at a rate of zero.
    """
    if run.length == state.get("length"):
        return
    steps, done = run.recipe.steps, run.step
    if run.length < done:
        raise BadValueError(
            f"steps={steps!r}: the run has done {done} updates already: give at least that many"
        )
    if run.diverged:
        raise BadValueError(
            f"steps={steps!r}: the run diverged ({run.reason}), and has no weights to go on from: "
            "train anew at a lower rate"
        )
    if run.status == Status.FINISHED:
        raise BadValueError(
            f"steps={steps!r}: the run stopped early after update {done} and put its best weights "
            f"back, which the optimizer's state does not belong to: train anew with steps={steps!r}"
        )
    best = None if run.state.early_stopping is None else run.state.early_stopping.best
    if state["status"] == Status.FINISHED and best is not None and best.step != done:
        raise BadValueError(
            f"steps={steps!r}: the run has its best weights back, those after update {best.step}, "
            f"which the optimizer's state does not belong to: train anew with steps={steps!r}"
        )
    stride = max(1, (run.length - done) // LOOKED)
    if done < run.length and all(
        run.state.lr_schedule(t) == 0 for t in range(done, run.length, stride)
    ):
        raise BadValueError(
            f"steps={steps!r}: the schedule {run.recipe.schedule!r} has ended, and its rate is 0 "
            f"from update {done} on: train anew by a schedule of the new length, such as cosine()"
        )
