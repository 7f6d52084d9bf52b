"""Causes that are facts of the loop, not guesses from its readings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from etude.diagnosis.finding import Cause, Finding
from etude.diagnosis.history import History, RunQuantity

IN_A_ROW = 3
"""How many sampled updates in a row must show the same."""


def gradients_not_cleared(history: History) -> list[Finding]:
    """Find gradients that stay from update to update.

    At the start of every backward pass since the step before, the gradients were still those that
    the step had used; this in three sampled updates in a row. Accumulation over several backward
    passes is something else: it clears after each step.
    """
    value = history.of_run(RunQuantity.UNCLEARED)
    steps = history.steps[~np.isnan(value)]
    value = value[~np.isnan(value)]
    if len(value) < IN_A_ROW or not np.all(value[-IN_A_ROW:] == 1):
        return []
    return [
        Finding(
            Cause.GRADIENTS_NOT_CLEARED,
            "Each backward pass adds to the gradients of the updates before, which nothing clears.",
            step=int(steps[-IN_A_ROW]),
            evidence={"updates": float(IN_A_ROW)},
            fix="Call optimizer.zero_grad() once per update, before backward.",
        )
    ]


def cleared_before_step(history: History) -> list[Finding]:
    """Find gradients that are cleared between the backward pass and the step.

    In three sampled updates in a row a backward pass gave gradients, they were changed before the
    step, at which no parameter had one other than 0, and no parameter has ever changed. A rate of 0
    freezes parameters too, and is left alone. One optimizer alone is judged; a step with a closure
    computes its gradients itself.
    """
    value = history.of_run(RunQuantity.CLEARED_EARLY)
    held = np.array([p.optimizer is not None and p.trainable for p in history.parameters], bool)
    if len(value) < IN_A_ROW or not np.all(value[-IN_A_ROW:] == 1) or not held.any():
        return []
    if not np.any(history.lr[np.isfinite(history.lr)] > 0):
        return []
    got = history.parameter_gradients[-IN_A_ROW:, held] > 0
    if got.any() or not _constant(history.parameter_norms[:, held]).all():
        return []
    return [
        Finding(
            Cause.PARAMETERS_NOT_TRAINED,
            "The gradients are cleared between the backward pass and the step: the step finds "
            "none, and no parameter changes.",
            step=int(history.steps[-IN_A_ROW]),
            evidence={"updates": float(IN_A_ROW)},
            fix="Call optimizer.zero_grad() before backward or after the step.",
        )
    ]


def eval_mode_in_training(history: History) -> list[Finding]:
    """Find a model that is updated in evaluation mode.

    The model's `training` was False at the steps of three sampled updates in a row, and it has a
    dropout or running statistics beside parameters that are trained.
    """
    mode = history.of_run(RunQuantity.TRAINING_MODE)
    if len(mode) < IN_A_ROW or not np.all(mode[-IN_A_ROW:] == 0):
        return []
    layer = history.evaluating_layer
    since = int(np.flatnonzero(mode != 0)[-1]) + 1 if np.any(mode != 0) else 0
    return [
        Finding(
            Cause.EVAL_MODE_IN_TRAINING,
            "The model is updated in evaluation mode, in which dropout is off and normalisations "
            "use their stored statistics.",
            layer=layer or None,
            step=int(history.steps[since]),
            evidence={"updates": float(len(mode) - since)},
            fix="Call model.train() before each epoch of training.",
        )
    ]


def parameters_not_trained(history: History) -> list[Finding]:
    """Find parameters that get a gradient, that no optimizer holds, and that never change.

    If an optimizer holds none of the model's parameters, no gradient is asked for.
    """
    updates, gradients = history.parameter_updates, history.parameter_gradients
    if not history.samples or not history.parameters:
        return []
    missing = np.array([p.optimizer is None and p.trainable for p in history.parameters])
    still = np.all(np.isnan(updates) | (updates == 0), axis=0) & _constant(history.parameter_norms)
    got = np.sum(np.isfinite(gradients) & (gradients > 0), axis=0) >= IN_A_ROW
    nobody = all(p.optimizer is None for p in history.parameters)
    found = np.flatnonzero(missing & still & (got | nobody))
    if not len(found):
        return []
    if nobody:
        text = f"The optimizer holds none of the model's {len(history.parameters)} parameters."
        fix = "Build the optimizer from the parameters of the model that is trained."
    else:
        names = [history.parameters[i].name for i in found]
        verb = "requires" if len(found) == 1 else "require"
        text = f"{_listed(names)} {verb} a gradient and got one, but no optimizer holds "
        text += "it." if len(found) == 1 else "them."
        fix = "Give the optimizer all parameters, or set requires_grad to False where they are to "
        fix += "stay as they are."
    layer = None if nobody else history.layers[history.parameters[found[0]].layer].name
    return [
        Finding(
            Cause.PARAMETERS_NOT_TRAINED,
            text,
            layer=layer,
            step=int(history.steps[-1]),
            evidence={"parameters": float(len(found))},
            fix=fix,
        )
    ]


def _constant(norms: np.ndarray) -> np.ndarray:
    """Return which columns hold one value alone, and NaN."""
    with np.errstate(all="ignore"):
        filled = np.where(np.isnan(norms), -np.inf, norms)
        highest = filled.max(axis=0)
        lowest = np.where(np.isnan(norms), np.inf, norms).min(axis=0)
    found: np.ndarray = (highest == lowest) | ~np.any(np.isfinite(norms), axis=0)
    return found


def _listed(names: Sequence[str], most: int = 3) -> str:
    """Return names in words.

    >>> _listed(["a", "b", "c", "d"], most=2), _listed(["a", "b"])
    ('a, b and 2 more parameters', 'a and b')
    """
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more parameters"
    return " and ".join([*([", ".join(names[:-1])] if len(names) > 1 else []), names[-1]])
