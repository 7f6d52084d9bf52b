"""What a run of Etude itself shows of its health, beside the readings of its layers."""

from __future__ import annotations

import math

from etude.diagnosis.finding import Finding, Symptom
from etude.diagnosis.overfitting import overfitting
from etude.diagnosis.stuck import no_better_than_a_constant
from etude.errors import EtudeError
from etude.training.state.state import RunState


def found_in(state: RunState) -> tuple[Finding, ...]:
    """Return what the losses and evaluations of a run show: that it diverged, or overfits."""
    if state.diverged:
        return (_diverged(state),)
    return overfitting(state, state.task) if state.ended else ()


def _diverged(state: RunState) -> Finding:
    reason = state.reason or "a value that is not finite ended the run"
    losses = [loss for loss in state.series["loss"] if math.isfinite(loss)]
    return Finding(
        Symptom.DIVERGING,
        f"{reason[:1].upper()}{reason[1:]}.",
        step=state.step,
        evidence={"updates": float(state.step), **({"last_loss": losses[-1]} if losses else {})},
    )


def learned_nothing(state: RunState) -> tuple[Finding, ...]:
    """Return a finding if a run at its end is no better than a constant output.

    Nothing if that cannot be told, since the user's loss does not take a constant.
    """
    try:
        return no_better_than_a_constant(state)
    except EtudeError:
        return ()
