"""Whether the weight decay leaves the weights time to learn."""

from __future__ import annotations

import math

from etude.diagnosis.check.subject import Look, Subject
from etude.diagnosis.finding import Cause, Finding
from etude.diagnosis.watching.layers import LayerTable
from etude.diagnosis.watching.track import is_adaptive

PART, MOST = 0.1, 100.0
"""A decay is too strong if it shrinks weights by a factor of e within this part of the run, and
within so many updates."""

USUAL, USUAL_DECOUPLED = 1e-2, 0.1
"""The largest usual decays. Where one of these shrinks the weights too fast, the rate does."""


def decay(subject: Subject) -> Look:
    """Look for a weight decay that shrinks the weights within few updates.

        1 / (η λ) < min(updates / 10, 100)

    η is the recipe's rate. A decay λ of up to 0.01, or 0.1 where it is decoupled as in AdamW, is
    not named: with it the rate is at fault. Of adaptive optimizers to whose gradient the decay is
    added, such as Adam, this says nothing, so that they are left out. Usual values are 10,000
    updates and more.

    Cost: none.
    """
    run, recipe = subject.run, subject.recipe
    found: list[Finding] = []
    table = LayerTable({"": run.model}, [run.optimizer])
    decays = [
        p.decay
        for p in table.parameters()
        if p.decay > (USUAL_DECOUPLED if p.decoupled else USUAL)
        and p.optimizer is not None
        and (p.decoupled or not is_adaptive([run.optimizer]))
    ]
    time = 1 / (recipe.lr * max(decays)) if decays else math.inf
    if time < min(PART * run.state.length, MOST):
        found.append(
            Finding(
                Cause.TOO_MUCH_REGULARISATION,
                evidence={"decay": max(decays), "updates": time},
                text=f"A weight decay of {max(decays):.3g} at a rate of {recipe.lr:.3g} shrinks "
                f"the weights by a factor of e in {time:.3g} updates, of {run.state.length}: what "
                "is learned is forgotten as fast.",
                fix="Take a weight decay of 1e-4 to 1e-2 with SGD, and up to 0.1 with AdamW.",
            )
        )
    return Look(tuple(found), f"the weight decay of {type(run.optimizer).__name__}")
