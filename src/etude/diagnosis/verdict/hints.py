"""How much speaks for each cause before anything is tried: a number from 0 to 1 without units."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from etude.diagnosis.evidence.measures import target_order
from etude.diagnosis.finding import Cause, Symptom
from etude.diagnosis.symptoms.curve import loss_curve
from etude.diagnosis.verdict.evidence import Evidence
from etude.diagnosis.verdict.shape import Shape, shape_of
from etude.diagnosis.verdict.units import ramp

Hint = Callable[[Evidence, Shape], float]
"""Returns how much speaks for a cause: 0 is nothing, 1 is much; NaN where it cannot be known."""

DRAWN = (0.45, 1.0)
"""From which log10 of the size of weights over the usual one they may be, and are, at fault."""


def _measure(name: str, low: float, high: float, *, either: bool = False) -> Hint:
    """Return a hint by a measure that was taken before training, on a ramp."""

    def hint(known: Evidence, shape: Shape) -> float:
        if known.measures is None:
            return math.nan
        value = float(getattr(known.measures, name))
        return ramp(abs(value) if either else value, low, high)

    return hint


def _most(*hints: Hint) -> Hint:
    """Return the largest of the hints that are known."""

    def hint(known: Evidence, shape: Shape) -> float:
        values = [one(known, shape) for one in hints]
        return max((v for v in values if not math.isnan(v)), default=math.nan)

    return hint


def _mean(*hints: Hint) -> Hint:
    """Return the mean of the hints that are known."""

    def hint(known: Evidence, shape: Shape) -> float:
        values = [v for one in hints if not math.isnan(v := one(known, shape))]
        return math.fsum(values) / len(values) if values else math.nan

    return hint


def _shape(name: str, low: float, high: float, *, either: bool = False) -> Hint:
    """Return a hint by the shape of the watched run, on a ramp."""

    def hint(known: Evidence, shape: Shape) -> float:
        value = float(getattr(shape, name))
        return ramp(abs(value) if either else value, low, high)

    return hint


def _symptom(what: Symptom) -> Hint:
    return lambda known, shape: float(any(f.what == what for f in known.findings))


def _in_order(known: Evidence, shape: Shape) -> float:
    """Return whether neighbouring batches are alike; a task's order is looked at by a check."""
    if known.measures is not None:
        return 0.0
    order = math.nan if known.history is None else target_order(known.history)
    return ramp(shape.neighbours, 0.15, 0.6) if math.isnan(order) else ramp(order, 0.1, 0.5)


def _labels(known: Evidence, shape: Shape) -> float:
    """Return by how much better validation targets are told from their own part."""
    m = known.measures
    if m is None or math.isnan(m.within) or math.isnan(m.across):
        return math.nan
    return ramp(m.within - m.across, 0.15, 0.4)


def _plain_depth(known: Evidence, shape: Shape) -> float:
    """Return whether the network is deep and hardly normalised."""
    if math.isnan(shape.depth):
        return math.nan
    return ramp(shape.depth, 3, 10) * (1.0 - ramp(shape.normalised, 0.1, 0.5))


def _flat(known: Evidence, shape: Shape) -> float:
    """Return whether hidden units with a sigmoid or tanh saturate, or gradients vanish in them.

    Weights that were drawn far too large do the same: then they are at fault, not the activation.
    """
    if math.isnan(shape.squashed):
        return math.nan
    lost = max(_zero(ramp(shape.saturated, 0.4, 0.9)), _zero(ramp(-shape.vanishing, 1.5, 4)))
    usual = 1.0 - _zero(ramp(_drawn(known, shape), *DRAWN))
    return ramp(shape.squashed, 0.2, 0.8) * lost * usual


def _drawn(known: Evidence, shape: Shape) -> float:
    """Return log10 of how much too large a layer's weights were drawn; NaN where unknown."""
    sizes = [shape.weights, math.nan if known.measures is None else known.measures.weights]
    return max((size for size in sizes if not math.isnan(size)), default=math.nan)


def _overfit(known: Evidence, shape: Shape) -> float:
    """Return by how much the validation loss rises again, or lies above a training loss that fell.

    It needs a training loss that fell by more than half: a run that learns nothing does not
    overfit, whatever its validation loss does.
    """
    seen = [e.loss for e in known.evaluations if math.isfinite(e.loss)]
    curve = None if known.history is None else loss_curve(known.history)
    if len(seen) < 3 or curve is None:
        return math.nan
    fall = max(seen[0] - min(seen), 1e-12)
    above = (seen[-1] - curve.now) / max(abs(seen[0]), 1e-12)
    much = max(ramp((seen[-1] - min(seen)) / fall, 0.05, 0.5), ramp(above, 0.1, 0.4))
    return much * ramp(shape.progress, 0.5, 0.9)


def _few_updates(known: Evidence, shape: Shape) -> float:
    """Return whether an update takes a large share of the data, and there are few of them."""
    m = known.measures
    if m is None or math.isnan(m.share):
        return math.nan
    return ramp(m.share, 0.1, 0.6) * (1.0 - ramp(math.log10(max(m.updates, 1)), 1.7, 2.5))


def _small_batch(known: Evidence, shape: Shape) -> float:
    """Return whether the batch is a few samples."""
    m = known.measures
    if m is None or math.isnan(m.batch):
        return math.nan
    return 1.0 - ramp(math.log2(max(m.batch, 1)), 1.0, 4.0)


def _foreign(known: Evidence, shape: Shape) -> float:
    """Return whether the optimizer is one whose rate has another meaning, or none of the usual."""
    m = known.measures
    if m is None or not m.optimizer:
        return math.nan
    return {"rprop": 1.0, "adadelta": 1.0, "sgd": 0.5}.get(m.optimizer, 0.0)


def _zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value


HINTS: Mapping[Cause, Hint] = MappingProxyType(
    {
        Cause.LR_TOO_HIGH: _mean(
            _most(_shape("ratio", -1.5, 0.0), _shape("rise", 0.0, 1.0)),
            _measure("rate", 0.5, 1.8),
        ),
        Cause.LR_TOO_LOW: lambda known, shape: ramp(-shape.moved, -0.3, 1.5),
        Cause.WARMUP_MISSING: _shape("jump", 0.05, 0.7),
        Cause.BAD_INITIALISATION: _most(
            _measure("weights", *DRAWN, either=True),
            _shape("weights", *DRAWN, either=True),
            _shape("growth", 1.0, 3.0),
            _shape("gates", 0.1, 0.5),
        ),
        Cause.SATURATING_ACTIVATION: _flat,
        Cause.MISSING_NORMALISATION: _plain_depth,
        Cause.MISSING_RESIDUAL: lambda known, shape: ramp(shape.depth, 8, 20),
        Cause.MISSING_CLIPPING: lambda known, shape: (
            ramp(shape.heavy, 0.7, 2.0) * (1.0 - _zero(shape.clipped))
        ),
        Cause.UNSCALED_INPUTS: _most(
            _measure("spread", 0.5, 1.5, either=True),
            _measure("shift", 0.5, 1.5),
            _measure("unequal", 1.0, 3.0),
        ),
        Cause.UNSCALED_TARGETS: _measure("targets", 0.5, 2.0, either=True),
        Cause.LABELS_DO_NOT_MATCH: _labels,
        Cause.DATA_NOT_SHUFFLED: _in_order,
        Cause.BATCH_TOO_SMALL: _small_batch,
        Cause.BATCH_TOO_LARGE: _few_updates,
        Cause.TOO_MUCH_REGULARISATION: _most(
            _measure("decay", 0.1, 2.0),
            _measure("penalty", 0.003, 0.1),
            _measure("drop", 0.6, 0.9),
        ),
        Cause.TOO_LITTLE_REGULARISATION: _overfit,
        Cause.OPTIMIZER_MISMATCH: _foreign,
    }
)
"""What speaks for each cause. A cause without a hint is only ever found as a fact or by a probe."""


def hints(known: Evidence) -> dict[Cause, float]:
    """Return the hint of each cause; NaN where it cannot be known.

    >>> set(map(math.isnan, hints(Evidence()).values()))
    {True}
    """
    shape = Shape() if known.history is None else shape_of(known.history)
    return {cause: hint(known, shape) for cause, hint in HINTS.items()}
