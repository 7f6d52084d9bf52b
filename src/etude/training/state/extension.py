"""Checks whether a run can be trained beyond its length, and explains why not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from etude.errors import BadValueError, check_whole
from etude.recipe import Recipe
from etude.record import Status
from etude.tasks.task import Task
from etude.training.clock import clock_of
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
    if run.status == Status.FINISHED and state["status"] == Status.FINISHED:
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


def grown(
    task: Task, recipe: Recipe, steps: int | str | None, more: int | None, *, resume: bool
) -> int | str | None:
    """Return the length that is asked for: the given one, or that of the run and `more` updates.

    Args:
        task: The task.
        recipe: The recipe of the run, with its length so far.
        steps: The length that was given; None for none.
        more: Updates beside those of the run; None for none.
        resume: Whether a run goes on.

    Raises:
        BadTypeError: If `more` is not a whole number.
        BadValueError: If it is below 1, no run goes on, or both are given.
    """
    if more is None:
        return steps
    more = check_whole("more", more, 1)
    if not resume:
        raise BadValueError(f"more={more} needs resume=True: give a new run its whole steps=")
    if steps is not None:
        raise BadValueError("steps and more both say how long the run is: give one of them")
    length: int = clock_of(task, recipe).horizon
    return length + more
