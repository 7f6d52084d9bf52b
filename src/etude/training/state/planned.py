"""How a run that was trained further differs from one that was planned at its length."""

from __future__ import annotations

from typing import Any

import numpy as np

from etude.training.state.state import RunState

ROUNDING = 1e-9
"""The largest share of the recipe's rate by which rates may differ."""


def planned_notes(state: RunState) -> dict[str, Any]:
    """Return `Record.not_as_planned` as a note, for a run that is not the one planned.

    Nothing, if no other length was asked for, or if neither the rates nor the evaluations that the
    run follows would have been others. Then it goes on as if it had been planned so.
    """
    why = _why_other(state)
    return {"not_as_planned": why} if why else {}


def _why_other(state: RunState) -> str:
    if not state.extended:
        return ""
    done = min(state.extended[-1][0], len(state.series["lr"]))
    lr, run = state.recipe.lr, f"in a run planned with {state.length} updates"
    rates = np.array(state.series["lr"][:done])
    planned = lr * np.asarray(state.lr_schedule(np.arange(done)))
    apart = np.abs(rates - planned)
    if done and apart.max() > ROUNDING * lr:
        step = int(apart.argmax())
        return f"its rate at update {step} was {rates[step]:.4g}, {run} it is {planned[step]:.4g}"
    schedules = (state.lr_schedule, *state.hyperparameter_schedules.values())
    what = "a schedule" if any(one.has_feedback for one in schedules) else ""
    what = what or ("early stopping" if state.early_stopping is not None else "")
    return f"{what} follows evaluations that are at other updates {run}" if what else ""
