"""Whether the same seed gives the same losses."""

from __future__ import annotations

import math

from etude.diagnosis.check.short_run import first_updates
from etude.diagnosis.check.subject import Look, Subject
from etude.diagnosis.finding import Cause, Finding

UPDATES = 3
"""The number of updates that are repeated."""

ROUNDING = 1e-5
"""The largest relative difference that may come from the order of additions on a device."""


def same_seed(subject: Subject) -> Look:
    """Train the first updates a second time, and compare the losses.

    Cost: three updates more.
    """
    first = subject.updates
    again = first_updates(subject.task, subject.recipe, subject.run.device, UPDATES)
    if first.error or again.error:
        return Look(
            unseen=f"whether the same seed gives the same loss: {first.error or again.error}"
        )
    pairs = list(zip(first.losses, again.losses, strict=False))
    seen = f"the losses of {len(pairs)} updates, trained twice with the same seed"
    for step, (a, b) in enumerate(pairs):
        if not math.isclose(a, b, rel_tol=ROUNDING, abs_tol=1e-12):
            return Look((_differs(step, a, b),), seen)
    if any(a != b for a, b in pairs):
        seen += " (equal up to rounding)"
    return Look(seen=seen)


def _differs(step: int, a: float, b: float) -> Finding:
    return Finding(
        Cause.NOT_REPEATABLE,
        step=step,
        evidence={"first": a, "second": b},
        text=f"Two runs with the same seed have the losses {a:.6g} and {b:.6g} at update {step}.",
        fix="Draw random numbers from torch, NumPy's or Python's global generators, which the "
        "recipe's seed sets, and keep no values outside of the model between runs.",
    )
