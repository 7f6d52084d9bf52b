"""Causes and symptoms that the first update shows, if what follows bears them out."""

from __future__ import annotations

import math

import numpy as np

from etude.diagnosis.evidence.facts import has_unscaled_inputs
from etude.diagnosis.evidence.measures import (
    CLASSES,
    LITTLE,
    LOGISTIC,
    WAIT,
    constant_losses,
    distance_moved,
    first_head_spread,
    first_relative_loss,
    learns_little,
    median_of,
    recent_relative_loss,
    saturated_gates,
)
from etude.diagnosis.finding import Cause, Finding, Symptom
from etude.diagnosis.history import History

TIMES, MORE = 3.0, 1.5
"""A loss of classes is far above chance at this many times chance, and chance plus this many nats,
as in `check.initial_loss`."""

ALIKE = 0.01
"""Samples look alike to the last layer if they differ by less than this share of their size."""

MANY = 0.25
"""The share of the gates of a recurrent layer that counts as many."""

NEAR = 0.1
"""The share of its size by which a layer hardly moves in a whole run."""


def bad_initialisation(history: History) -> list[Finding]:
    """Find a network that is sure of wrong answers at the start, and still after 30 updates.

    The first loss of classes is above three times that of the best constant output, and above it
    plus 1.5; the last tenth is still above three times. Unscaled inputs, which do the same, are
    another cause.
    """
    if history.loss_name not in (*CLASSES, *LOGISTIC) or history.updates < WAIT:
        return []
    first, (recent, error) = first_relative_loss(history), recent_relative_loss(history)
    chance = median_of(constant_losses(history))
    if not (first > TIMES and (first - 1) * chance > MORE and recent - 2 * error > TIMES):
        return []
    if has_unscaled_inputs(history):
        return []
    outputs = [layer.name for layer in history.layers if layer.output]
    return [
        Finding(
            Cause.BAD_INITIALISATION,
            f"The first loss is {first * chance:.4g}, and answers by chance have {chance:.4g}: the "
            "untrained network is sure of wrong answers, and the updates since have not changed "
            "that.",
            layer=outputs[-1] if outputs else None,
            step=int(history.steps[0]),
            evidence={"loss": first * chance, "chance": chance, "recent": recent * chance},
            fix="Draw smaller weights, above all in the last layer.",
        )
    ]


def samples_look_alike(history: History) -> list[Finding]:
    """Find a network whose last layer cannot tell the samples apart at the start.

    In the first update, what the last layer reads differs between the samples of a batch by less
    than 1% of its size, although the inputs differ: layer by layer the differences shrink, or the
    biases grow over them. Said where little is learned after 30 updates.
    Source: Schoenholz et al. 2017 (arXiv:1611.01232), whose correlation of two samples goes to 1
    with depth.
    """
    spread = first_head_spread(history)
    layers = [layer for layer in history.layers if layer.kind in ("linear", "convolution")]
    if not spread < ALIKE or len(layers) < 3 or not learns_little(history):
        return []
    first = min(range(len(history.layers)), key=lambda n: history.layers[n].depth)
    return [
        Finding(
            Symptom.VANISHING,
            f"Before training, samples differ by {spread:.1e} of their size in what the last layer "
            "reads: on the way through the layers their differences are lost.",
            layer=history.layers[first].name,
            step=int(history.steps[0]),
            evidence={"spread": spread, "layers": float(len(layers))},
        )
    ]


def saturated_recurrence(history: History) -> list[Finding]:
    """Find recurrent layers whose gates or states have no slope left at the start.

    At the first reading a quarter of the gates and states of the layer, or more, are where the
    slope of their sigmoid or tanh is below 5% of the steepest, and little is learned: new layers
    have next to none, but trained ones may have many. Where the inputs are scaled, the weights were
    drawn too large, which is stated as the cause.
    """
    shares = saturated_gates(history)
    found: list[Finding] = []
    if not np.any(shares >= MANY) or not learns_little(history):
        return found
    for number in np.flatnonzero(shares >= MANY):
        name, share, step = history.layers[number].name, float(shares[number]), history.steps[0]
        text, evidence = f"{_saturated(name, share)}.", {"share": share}
        found.append(Finding(Symptom.SATURATED, text, name, int(step), evidence))
        if not has_unscaled_inputs(history):
            found.append(gates_finding(name, share, int(step)))
    return found


def gates_finding(layer: str, share: float, step: int | None) -> Finding:
    """Return the finding of weights that saturate a recurrent layer, although inputs are scaled."""
    return Finding(
        Cause.BAD_INITIALISATION,
        f"{_saturated(layer, share)}, although its inputs are scaled: its weights are too large.",
        layer=layer,
        step=step,
        evidence={"share": share},
        fix="Draw the weights of the recurrent layer as torch does, between -1/√n and 1/√n for n "
        "units, and the recurrent ones orthogonally.",
    )


def _saturated(layer: str, share: float) -> str:
    return (
        f"Before training, {share:.0%} of the gates and states of {layer} are where the slope of "
        "their sigmoid or tanh is below 5% of the steepest"
    )


def rate_too_low(history: History) -> list[Finding]:
    """Find a run that is over, has learned next to nothing, and has hardly moved its weights.

    No trained layer's path is longer than a tenth of its size (see `distance_moved`), the loss is
    above 80% of that of the best constant output and was not far above it at the start, and at
    least 100 updates were made.
    """
    if not history.ended or history.updates < 100 or not history.one_loss:
        return []
    moved = distance_moved(history)
    moved = moved[np.isfinite(moved) & (moved > 0)]
    recent, _ = recent_relative_loss(history)
    if not len(moved) or not recent > LITTLE or not first_relative_loss(history) < TIMES:
        return []
    most = float(moved.max())
    if most > NEAR:
        return []
    rate = float(np.nanmax(history.lr)) if np.isfinite(history.lr).any() else math.nan
    evidence = {"moved": most, "rate": rate, "relative_loss": recent}
    if "Adadelta" in history.optimizers and rate < NEAR:
        return [
            Finding(
                Cause.OPTIMIZER_MISMATCH,
                f"Adadelta chooses the size of its steps itself, and a rate of {rate:.3g} takes "
                f"that share of them: in {history.updates} updates no layer has moved by more than "
                f"{most:.1e} of its size.",
                step=history.updates - 1,
                evidence=evidence,
                fix="Take Adadelta at a rate of 1, or an optimizer that the rate suits, as Adam.",
            )
        ]
    return [
        Finding(
            Cause.LR_TOO_LOW,
            f"In {history.updates} updates no layer has moved by more than {most:.1e} of its size, "
            f"at rates up to {rate:.3g}, and the loss is {recent:.3g} times that of the best "
            "constant output.",
            step=history.updates - 1,
            evidence=evidence,
            fix="Raise the learning rate, ten times at first; etude.tune or a range test finds it.",
        )
    ]
