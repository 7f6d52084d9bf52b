"""Weights that are drawn so large that the units behind them have no slope."""

from __future__ import annotations

import math

import numpy as np

from etude.diagnosis.evidence.facts import has_unscaled_inputs
from etude.diagnosis.evidence.measures import learns_little, weights_at_start
from etude.diagnosis.finding import Cause, Finding
from etude.diagnosis.history import History, Quantity

LARGE = 4.0
"""Weights this many times as large as those that the layer draws itself are drawn large: He's and
Glorot's initialisation, and orthogonal weights, are up to 2.5 times as large."""

MOST, NEARLY_ALL = 0.5, 0.9
"""Shares of a layer's outputs: the first counts where little is learned, the second in a game of
several optimizers, whose losses do not tell what is learned."""

LONG = 100
"""Updates of a game after which units that are flat count."""


def saturating_weights(history: History) -> list[Finding]:
    """Find hidden layers whose weights were drawn so large that their tanh or sigmoid is flat.

    Before training, the weights are four times as large as those that the layer draws itself, and
    half of the outputs of its tanh or sigmoid are where the slope is below 5% of the steepest; at
    the last reading they still are, and little is learned. In a game nine tenths must be flat, and
    still be after 100 updates. What must be changed are the weights: with weights of the usual size
    the same activation has a slope. Unscaled inputs, which do the same, are another cause.
    """
    sizes, shares = weights_at_start(history), history.of_layers(Quantity.SATURATED)
    needed = MOST if history.one_loss else NEARLY_ALL
    found: list[Finding] = []
    for number, layer in enumerate(history.layers):
        read = np.flatnonzero(~np.isnan(shares[:, number]))
        if len(read) < 2 or history.steps[read[0]] != 0 or layer.gate or layer.output:
            continue
        first, last = float(shares[read[0], number]), float(shares[read[-1], number])
        if min(first, last) >= needed and sizes[number] >= math.log10(LARGE):
            found.append(_finding(layer.name, layer.activation, 10 ** float(sizes[number]), first))
    if not found or has_unscaled_inputs(history) or not _counts(history):
        return []
    return found


def _counts(history: History) -> bool:
    return learns_little(history) if history.one_loss else history.updates >= LONG


def _finding(layer: str, activation: str, size: float, share: float) -> Finding:
    return Finding(
        Cause.BAD_INITIALISATION,
        f"Before training, the weights of {layer} are {size:.3g} times as large as those that the "
        f"layer draws itself, so that {share:.0%} of the outputs of its {activation} are where the "
        "slope is below 5% of the steepest, and they still are.",
        layer=layer,
        step=0,
        evidence={"size": size, "share": share},
        fix="Draw smaller weights: leave them as the layer draws them, or between -1/√n and 1/√n "
        "for n inputs.",
    )
