"""The published rules of other tools, over the readings of the probe.

Each is an own implementation of thresholds that the tools state; none of their code is here. Where
a tool names a symptom, the causes are those that its remedies for the symptom would mend, in the
order in which it tries them.

Sources: AutoTrainer (Zhang et al., ICSE 2021); Amazon SageMaker Debugger, built-in rules;
DeepDiagnosis (Wardat et al., ICSE 2022).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.doctor.case import Case
from benchmarks.doctor.diagnoser import Verdict
from benchmarks.doctor.keep import kept
from benchmarks.doctor.probe import RECTIFIERS, LayerReading, Readings, UnitReading

Symptom = tuple[int, str, str]
"""The update at which a rule fired, the symptom and the layer."""

RECTIFIER_NAMES = {kind.__name__ for kind in RECTIFIERS}


@dataclass(frozen=True)
class Rules:
    """A rival: what it sees in the readings, and which causes it names for a symptom."""

    name: str
    see: Callable[[Readings], Iterator[Symptom]]
    causes: dict[str, tuple[str, ...]]

    def diagnose(self, case: Case) -> Verdict:
        """Return what the rules find in a run; the first symptom leads."""
        seen = sorted(self.see(kept(case)), key=lambda symptom: symptom[0])
        if not seen:
            return Verdict()
        ranked = [cause for _, symptom, _ in seen for cause in self.causes[symptom]]
        layer = next((layer for _, _, layer in seen if layer), "")
        return Verdict(tuple(dict.fromkeys(ranked)), layer, seen[0][0])


def at_each(readings: Readings) -> Iterator[tuple[int, dict[str, LayerReading]]]:
    """Yield every update that was read, with its layers."""
    for place, step in enumerate(readings.steps):
        yield step, {name: row[place] for name, row in readings.layers.items() if place < len(row)}


def units_at_each(readings: Readings) -> Iterator[tuple[int, str, UnitReading]]:
    """Yield every reading of a module's output."""
    for name, row in readings.units.items():
        for step, unit in zip(readings.steps, row, strict=False):
            yield step, name, unit


def first(symptoms: Iterator[Symptom]) -> Iterator[Symptom]:
    """Yield the first of each symptom."""
    found: dict[str, Symptom] = {}
    for symptom in symptoms:
        known = found.get(symptom[1])
        if known is None or symptom[0] < known[0]:
            found[symptom[1]] = symptom
    yield from found.values()


def bad_losses(readings: Readings, largest: float = math.inf) -> Iterator[Symptom]:
    """Yield the first loss that is not finite, or not below a bound."""
    assert readings.outcome is not None
    for step, loss in enumerate(readings.outcome.losses):
        if not math.isfinite(loss) or loss >= largest:
            yield step, "exploding", ""
            return


def autotrainer(readings: Readings) -> Iterator[Symptom]:
    """Vanishing and exploding by the ratio of first to last layer, dead units, swings, slowness."""
    yield from bad_losses(readings, 1e3)
    for step, layers in at_each(readings):
        known = [(name, r.gradient) for name, r in layers.items() if math.isfinite(r.gradient)]
        if len(known) > 1:
            (name, top), bottom = known[0], known[-1][1]
            ratio = top / bottom if bottom else math.inf
            if ratio < 1e-3 and top < 1e-4:
                yield step, "vanishing", name
            if ratio > 70:
                yield step, "exploding", name
        for name, reading in layers.items():
            if reading.zeros >= 0.7:
                yield step, "dead", name
    accuracies = [accuracy for _, _, accuracy in readings.epochs if math.isfinite(accuracy)]
    swings = sum(b - a <= -0.03 for a, b in itertools.pairwise(accuracies))
    end = readings.epochs[-1][0] if readings.epochs else 0
    if accuracies and swings >= 0.2 * len(accuracies):
        yield end, "oscillating", ""
    if accuracies and max(accuracies) - accuracies[0] < 0.01:
        yield end, "slow", ""


def sagemaker(readings: Readings) -> Iterator[Symptom]:
    """The built-in rules on tensors and losses."""
    yield from bad_losses(readings)
    for step, layers in at_each(readings):
        for name, reading in layers.items():
            if reading.mean_gradient < 1e-7:
                yield step, "vanishing", name
            if not math.isfinite(reading.weight + reading.update):
                yield step, "exploding", name
            elif reading.weight and reading.update / reading.weight > 10:
                yield step, "large update", name
            elif reading.weight and reading.update / reading.weight < 1e-8:
                yield step, "small update", name
    for step, name, unit in units_at_each(readings):
        if unit.kind in RECTIFIER_NAMES and unit.dead > 0.5:
            yield step, "dead", name
        if unit.kind == "Tanh" and unit.input_beyond > 0.5:
            yield step, "saturated", name
    start = [row[0].variance for row in readings.units.values() if row and row[0].variance > 0]
    if start and max(start) / min(start) > 10:
        yield 0, "initialisation", ""
    assert readings.outcome is not None
    losses = readings.outcome.losses
    for step in range(10, len(losses), 10):
        if losses[step] > losses[step - 10] * (1 - 1e-3):
            yield step, "stalled", ""
            return


def deepdiagnosis(readings: Readings) -> Iterator[Symptom]:
    """Vanishing, exploding, dead and saturated layers, update size, stall and initialisation."""
    yield from bad_losses(readings)
    for step, layers in at_each(readings):
        for name, reading in layers.items():
            if step == 0 and not 1e-5 <= reading.variance <= 10:
                yield step, "initialisation", name
            if reading.mean_gradient < 1e-7:
                yield step, "vanishing", name
            ratio = reading.update / reading.weight if reading.weight else math.inf
            if not 1e-5 <= ratio <= 1e-1:
                yield step, "small update" if ratio < 1e-5 else "large update", name
    for step, name, unit in units_at_each(readings):
        if unit.kind in RECTIFIER_NAMES and 1 - unit.positive >= 0.7:
            yield step, "dead", name
        if unit.kind not in ("Tanh", "Sigmoid") and unit.beyond_five > 0.5:
            yield step, "saturated", name
    losses = [loss for _, loss, _ in readings.epochs]
    for place in range(5, len(losses)):
        if losses[place] >= losses[place - 5]:
            yield readings.epochs[place][0], "stalled", ""
            return


RIVALS = (
    Rules("AutoTrainer", lambda readings: first(autotrainer(readings)), {
        "vanishing": ("saturating_activation", "missing_normalisation", "bad_initialisation"),
        "exploding": ("missing_clipping", "missing_normalisation", "bad_initialisation"),
        "dead": ("missing_normalisation", "saturating_activation", "bad_initialisation"),
        "oscillating": ("lr_too_high", "optimizer_mismatch", "batch_too_small"),
        "slow": ("lr_too_low", "optimizer_mismatch", "bad_initialisation"),
    }),
    Rules("SageMaker Debugger", lambda readings: first(sagemaker(readings)), {
        "vanishing": ("bad_initialisation", "saturating_activation", "missing_normalisation"),
        "exploding": ("lr_too_high", "missing_clipping", "unscaled_inputs"),
        "large update": ("lr_too_high",),
        "small update": ("lr_too_low", "parameters_not_trained"),
        "dead": ("lr_too_high", "bad_initialisation", "unscaled_inputs"),
        "saturated": ("saturating_activation", "unscaled_inputs", "bad_initialisation"),
        "initialisation": ("bad_initialisation",),
        "stalled": ("lr_too_low", "lr_too_high", "labels_do_not_match"),
    }),
    Rules("DeepDiagnosis", lambda readings: first(deepdiagnosis(readings)), {
        "vanishing": ("saturating_activation", "missing_normalisation", "bad_initialisation"),
        "exploding": ("lr_too_high", "bad_data", "unscaled_inputs"),
        "large update": ("lr_too_high",),
        "small update": ("lr_too_low", "parameters_not_trained"),
        "dead": ("lr_too_high", "bad_initialisation", "saturating_activation"),
        "saturated": ("saturating_activation", "unscaled_inputs", "bad_initialisation"),
        "initialisation": ("bad_initialisation",),
        "stalled": ("wrong_loss_or_output", "lr_too_low", "labels_do_not_match"),
    }),
)  # fmt: skip
"""The rivals whose rules are published as thresholds."""
