"""What the first forward pass shows inside: gates, batch normalisations, what the head is given."""

from __future__ import annotations

import math

import torch

from etude.diagnosis.check.initial_loss import chance_of_classes, falls, is_unscaled
from etude.diagnosis.check.labels import CLASSES, LOGISTIC
from etude.diagnosis.check.subject import Look, Subject
from etude.diagnosis.evidence.beginning import MANY, gates_finding
from etude.diagnosis.evidence.facts import batch_norm_finding
from etude.diagnosis.evidence.measures import LITTLE
from etude.diagnosis.finding import Finding, Symptom
from etude.diagnosis.history import RunQuantity
from etude.diagnosis.watching.activations import ActivationMemory, ForwardReader
from etude.diagnosis.watching.layers import LayerTable

ALIKE = 1e-3
"""Samples that differ by less of their size look alike. The bound of a watch is 1%, since it has
seen whether the loss falls; eight narrow layers that train well, as in 'digits-deep-mlp', have 0.5%
before training."""

LEAST = 3
"""The number of layers below which differences between samples are not lost on the way."""


def first_pass(subject: Subject) -> Look:
    """Read one forward pass in training mode.

    A quarter of the gates of a recurrent layer saturated, although the inputs are scaled; a batch
    normalisation over one or two samples; samples that differ by less than 0.1% in what the last
    layer reads, and a loss that the first updates do not lower. The other bounds are those of a
    watch: see `etude.diagnosis.evidence`.

    Cost: one forward pass; where samples look alike, the 24 updates that `inputs_used` needs too.
    """
    network = subject.network()
    table = LayerTable({"": network}, [])
    reader = ForwardReader(table, ActivationMemory())
    with torch.no_grad(), reader:
        subject.forward(network, subject.batch)
    reader.finish()
    readings = {name: float(value) for name, value in reader.evidence.readings().items()}
    found: list[Finding] = []
    for (number, what), share in reader.values.items():
        if what == "gates" and float(share) >= MANY and not is_unscaled(subject):
            found.append(gates_finding(table.layers()[number].name, float(share), None))
    samples = readings.get(RunQuantity.NORMALISED_SAMPLES, math.inf)
    if samples <= 2:
        found.append(batch_norm_finding(int(samples), None))
    spread = readings.get(RunQuantity.HEAD_SPREAD, math.nan)
    layers = [layer for layer in table.layers() if layer.kind in ("linear", "convolution")]
    if spread < ALIKE and len(layers) >= LEAST and _stays(subject):
        found.append(
            Finding(
                Symptom.VANISHING,
                evidence={"spread": spread, "layers": len(layers)},
                text=f"Before training, samples differ by {spread:.1e} of their size in what the "
                "last layer reads: on the way through the layers their differences are lost, and "
                "the first updates do not change that.",
                fix="Normalise between the layers, add residual connections, or draw the weights "
                "for the activation, such as initialisation = 'he_normal'.",
            )
        )
    return Look(tuple(found), "the first forward pass: gates, normalisations, the last layer")


def _stays(subject: Subject) -> bool:
    """Return whether the first updates leave the loss of classes where chance has it."""
    call = subject.call
    if call is None or call.name not in (*CLASSES, *LOGISTIC):
        return False
    return not falls(subject, LITTLE * chance_of_classes(call.name, call.scores))
