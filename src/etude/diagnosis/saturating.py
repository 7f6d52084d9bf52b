"""The cause `saturating_activation`, where the gradient's path shows it."""

from __future__ import annotations

from collections.abc import Sequence

from etude.diagnosis.finding import Cause, Finding, Symptom
from etude.diagnosis.history import History, LayerInfo

SHARE = 0.75
"""The share of the hidden layers that must have the activation."""

LEAST = 3
"""The smallest number of such layers: fewer do not make a gradient vanish."""


def saturating_activation(history: History, symptoms: Sequence[Finding]) -> list[Finding]:
    """Return the cause where a gradient vanishes through sigmoids, or units saturate.

    The slope of a sigmoid is at most 1/4, so that n of them shrink a gradient by at least 4**n,
    unless the weights make up for it. The cause is stated if gradients vanish and at least three
    hidden layers, and three quarters of them, have a sigmoid; or if a hidden layer with a sigmoid
    or tanh is found saturated. A tanh alone, whose slope is up to 1, does not count.

    Where the units are flat because their weights were drawn too large, the cause is
    `bad_initialisation`: weights of the usual size mend that, and another activation does not.

    Args:
        history: The readings of the run.
        symptoms: What was found in it.

    Source: Glorot and Bengio 2010, section 3.1.
    """
    seen = {finding.what: finding for finding in symptoms}
    drawn = {one.layer for one in symptoms if one.what == Cause.BAD_INITIALISATION}
    hidden = [
        layer
        for layer in history.layers
        if not layer.output
        and not layer.gate
        and layer.kind not in ("normalisation", "embedding", "recurrent")
    ]
    sigmoids = [layer for layer in hidden if layer.activation == "sigmoid"]
    vanishing = seen.get(Symptom.VANISHING)
    enough = len(sigmoids) >= max(LEAST, SHARE * len(hidden))
    if vanishing is not None and enough and drawn.isdisjoint(one.name for one in sigmoids):
        return [_cause(vanishing, sigmoids, "so that the gradient shrinks in each of them")]
    saturated = [
        finding
        for finding in symptoms
        if finding.what == Symptom.SATURATED and finding.layer not in drawn
    ]
    names = {finding.layer for finding in saturated}
    layers = [layer for layer in hidden if layer.name in names]
    if not layers:
        return []
    return [_cause(saturated[0], layers, "and it is flat where most of their outputs lie")]


def _cause(symptom: Finding, layers: Sequence[LayerInfo], consequence: str) -> Finding:
    kinds = " and ".join(sorted({layer.activation for layer in layers}))
    slope = " with a slope of at most 1/4" if kinds == "sigmoid" else ""
    named = ", ".join(layer.name for layer in layers[:4])
    more = f" and {len(layers) - 4} more" if len(layers) > 4 else ""
    number = "layers have" if len(layers) > 1 else "layer has"
    return Finding(
        Cause.SATURATING_ACTIVATION,
        f"{len(layers)} hidden {number} a {kinds}{slope}, {consequence}: {named}{more}.",
        layer=layers[0].name,
        step=symptom.step,
        evidence={"layers": float(len(layers)), "activation": kinds},
        fix="Use an activation that does not saturate, or normalise its inputs.",
    )
