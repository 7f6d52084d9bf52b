"""Dead and saturated units, and outputs that do not depend on the input."""

from __future__ import annotations

import numpy as np

from etude.diagnosis.finding import Finding, Symptom
from etude.diagnosis.history import History, Quantity, RunQuantity
from etude.diagnosis.symptoms.curve import loss_curve

NEARLY_ALL, MOST = 0.9, 0.5
"""Shares of a layer's units: the first says enough by itself, the second where nothing is learned.
Healthy ReLU networks may have a third of dead units."""

LONG = 100
"""Updates after which a loss that has not fallen counts against a layer."""

CONSTANT = 1e-6
"""Outputs that differ by less than this share of their size are one output, up to rounding."""


def dead(history: History) -> list[Finding]:
    """Find layers whose ReLUs give 0 for every input.

    A share of .9 of dead units in the last two readings; or of .5 where the loss has not fallen
    in 100 updates. See `activations` for what a dead unit is. (SageMaker Debugger takes .5,
    DeepDiagnosis .7 of the entries of one batch, in which a unit may well rest.)
    """
    values = history.of_layers(Quantity.DEAD)
    found = []
    for number, layer in enumerate(history.layers):
        read = np.flatnonzero(~np.isnan(values[:, number]))
        if len(read) < 2 or layer.units < 4:
            continue
        share = float(values[read[-2:], number].min())
        if share < NEARLY_ALL and not (share >= MOST and _idle(history, LONG)):
            continue
        units = round(float(values[read[-1], number]) * layer.units)
        found.append(
            Finding(
                Symptom.DEAD,
                f"{units} of the {layer.units} units after {layer.name} are dead: their ReLU gave "
                "0 for every sample read in the last sampled updates.",
                layer=layer.name,
                step=int(history.steps[read[-2]]),
                evidence={"share": share, "units": float(layer.units)},
            )
        )
    return found


def saturated(history: History) -> list[Finding]:
    """Find hidden layers whose tanh or sigmoid has no slope left, where nothing is learned.

    The median share of saturated entries over the last five sampled updates is .9, and the loss
    has not fallen in 20 updates; or .5, and not in 100. Outputs and gates are left out: they are
    meant to saturate. So is every layer of a run whose loss falls.
    """
    values = history.of_layers(Quantity.SATURATED)
    found = []
    for number, layer in enumerate(history.layers):
        read = np.flatnonzero(~np.isnan(values[:, number]))
        if len(read) < 5 or layer.gate:
            continue
        share = float(np.median(values[read[-5:], number]))
        if not (share >= NEARLY_ALL and _idle(history, 20)) and not (
            share >= MOST and _idle(history, LONG)
        ):
            continue
        found.append(
            Finding(
                Symptom.SATURATED,
                f"{share:.0%} of the outputs of the {layer.activation} after {layer.name} are "
                "where its slope is below 5% of the steepest, and the loss does not fall.",
                layer=layer.name,
                step=int(history.steps[read[-5]]),
                evidence={"share": share},
            )
        )
    return found


def constant_output(history: History) -> list[Finding]:
    """Find a model whose outputs are the same for all samples of a batch.

        max over features of (max - min over samples) / max |output| < 1e-6

    in each of the last five sampled updates, the first update of the run left out, since many
    models begin with a head of zeros. The inputs of the batch differ.
    """
    values = history.of_run(RunQuantity.OUTPUT_SPREAD)
    read = np.flatnonzero(~np.isnan(values) & (history.steps > 0))
    if len(read) < 5 or np.any(values[read[-5:]] >= CONSTANT):
        return []
    if history.steps[read[-1]] - history.steps[read[-5]] < 8:
        return []
    return [
        Finding(
            Symptom.CONSTANT_OUTPUT,
            "The outputs of all samples of a batch are equal up to rounding, although the inputs "
            "differ.",
            step=int(history.steps[read[-5]]),
            evidence={"spread": float(values[read[-5:]].max())},
        )
    ]


def _idle(history: History, updates: int) -> bool:
    """Return whether the loss has not fallen in so many updates."""
    curve = loss_curve(history)
    return curve is not None and len(curve.loss) >= updates and not curve.learned
