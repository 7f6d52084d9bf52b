"""What speaks for a cause, in sentences with the numbers that were measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import numpy as np

from etude.diagnosis.evidence.measures import weights_at_start
from etude.diagnosis.finding import Cause
from etude.diagnosis.history import History
from etude.diagnosis.verdict.evidence import Evidence
from etude.diagnosis.verdict.hints import DRAWN, hints
from etude.diagnosis.verdict.measures import Measures
from etude.diagnosis.verdict.probes import CAUSES, CHANGES, SHORT, WORTH
from etude.diagnosis.verdict.shape import Shape, shape_of

ENOUGH = 0.3
"""The hint from which it is told."""


def _times(logarithm: float) -> str:
    return f"{10**logarithm:.3g}"


FLAT, OFTEN, FAST = 0.1, 0.6, 0.5
"""The share of flat gates, the probability of a dropout, and the logarithm of the rate over the
usual one, from which they are told."""

OF_SHAPE: Mapping[Cause, Callable[[Shape], str]] = MappingProxyType(
    {
        Cause.LR_TOO_HIGH: lambda s: (
            f"The layer that moves most changes by {_times(s.ratio)} of its size in an update."
        ),
        Cause.LR_TOO_LOW: lambda s: (
            f"Over the whole run no layer moved by more than about {_times(s.moved)} of its size."
        ),
        Cause.WARMUP_MISSING: lambda s: (
            f"In the first fifth of the run the loss rose to {_times(s.jump)} times its start."
        ),
        Cause.BAD_INITIALISATION: lambda s: (
            f"Before training, {s.gates:.0%} of the gates and states of a recurrent layer are flat."
            if s.gates > FLAT
            else ""
        ),
        Cause.SATURATING_ACTIVATION: lambda s: (
            f"{s.squashed:.0%} of the hidden layers have a sigmoid or tanh."
        ),
        Cause.MISSING_NORMALISATION: lambda s: (
            f"The network has {s.depth:.0f} hidden layers and hardly a normalisation."
        ),
        Cause.MISSING_RESIDUAL: lambda s: f"The network has {s.depth:.0f} hidden layers.",
        Cause.MISSING_CLIPPING: lambda s: (
            f"The gradient's norm reached {_times(s.heavy)} times its median."
        ),
        Cause.DATA_NOT_SHUFFLED: lambda s: (
            f"The losses of neighbouring batches are alike (correlation {s.neighbours:.2f})."
        ),
    }
)
"""What the watched run shows for a cause."""

OF_MEASURES: Mapping[Cause, Callable[[Measures], str]] = MappingProxyType(
    {
        Cause.BAD_INITIALISATION: lambda m: (
            f"The weights of {m.layer} are {_times(m.weights)} times as large as those that the "
            "layer draws itself."
            if m.layer and abs(m.weights) > DRAWN[0]
            else ""
        ),
        Cause.UNSCALED_INPUTS: lambda m: (
            f"What the first layer reads has a standard deviation of about {_times(m.spread)}."
        ),
        Cause.UNSCALED_TARGETS: lambda m: (
            f"The targets are {_times(m.targets)} times the size of the outputs before training, "
            "or of 1 where that is larger."
        ),
        Cause.LABELS_DO_NOT_MATCH: lambda m: (
            f"The nearest validation samples tell a validation target to {m.within:.0%}, the "
            f"nearest training samples to {m.across:.0%} (0% is chance)."
        ),
        Cause.BATCH_TOO_SMALL: lambda m: f"An update sees {m.batch:.0f} samples.",
        Cause.BATCH_TOO_LARGE: lambda m: (
            f"An update sees {m.share:.0%} of the training data, and there are {m.updates:.0f}."
        ),
        Cause.TOO_MUCH_REGULARISATION: lambda m: (
            f"A dropout leaves out {m.drop:.0%} of what it reads."
            if m.drop > OFTEN
            else f"The rate times the weight decay adds up to {m.decay:.3g} over the run."
        ),
        Cause.LR_TOO_HIGH: lambda m: (
            f"The rate is {_times(m.rate)} times the one at which a search for this optimizer and "
            "network begins."
            if m.rate > FAST
            else ""
        ),
        Cause.OPTIMIZER_MISMATCH: lambda m: f"The optimizer is {m.optimizer}.",
    }
)
"""What a task and a recipe show for a cause before training."""


def _overfitted(known: Evidence) -> str:
    seen = [e for e in known.evaluations if math.isfinite(e.loss)]
    best = min(seen, key=lambda e: e.loss)
    return (
        f"The validation loss was lowest after {best.step} updates ({best.loss:.4g}) and ends at "
        f"{seen[-1].loss:.4g}."
    )


def sentences(known: Evidence, cause: Cause) -> tuple[str, ...]:
    """Return what speaks for a cause: findings first, then what was measured, then the probes."""
    told = list(dict.fromkeys(f.text for f in known.findings if f.what == cause))
    if not told:
        told += [text for text in _measured(known, cause) if text and "nan" not in text]
    told += _probed(known, cause)
    return tuple(told)


def _measured(known: Evidence, cause: Cause) -> Iterator[str]:
    hint = hints(known).get(cause, math.nan)
    if math.isnan(hint) or hint < ENOUGH:
        return
    if cause in OF_SHAPE and known.history is not None:
        yield OF_SHAPE[cause](shape_of(known.history))
    if cause in OF_MEASURES and known.measures is not None:
        yield OF_MEASURES[cause](known.measures)
    if cause == Cause.TOO_LITTLE_REGULARISATION:
        yield _overfitted(known)
    if cause == Cause.BAD_INITIALISATION and known.measures is None and known.history is not None:
        yield _drawn(known.history)


def _drawn(history: History) -> str:
    number = furthest_from_usual(history)
    if number is None:
        return ""
    return (
        f"Before training, the weights of {history.layers[number].name} are "
        f"{_times(float(weights_at_start(history)[number]))} times as large as those that the "
        "layer draws itself."
    )


def furthest_from_usual(history: History) -> int | None:
    """Return the layer whose weights are furthest from their usual size; None if none is far."""
    sizes = np.abs(weights_at_start(history))
    far = np.nanmax(sizes, initial=0.0) > DRAWN[0]
    return int(np.nanargmax(sizes)) if far else None


def _probed(known: Evidence, cause: Cause) -> list[str]:
    """Return what the best probe of a cause has shown, if it gained."""
    if known.probes is None:
        return []
    own = [p for p in known.probes.probes if cause in CAUSES[p.name] and math.isfinite(p.loss)]
    gained = [p for p in own if max(p.gain, p.loss_gain) > WORTH]
    if not gained:
        return []
    best = max(gained, key=lambda p: (p.share, p.gain))
    remedy = CHANGES[best.name]
    when = "a quarter of the run" if best.share == SHORT else "the run"
    if math.isnan(best.before) or not best.loss < best.before:
        return [f"{remedy.text}: the error is lower after {when}."] if best.gain > WORTH else []
    instead = f"instead of {best.before:.4g}" if math.isfinite(best.before) else "and is finite"
    return [f"{remedy.text}: after {when} the validation loss is {best.loss:.4g} {instead}."]


FIRST = (Cause.UNSCALED_INPUTS, Cause.MISSING_NORMALISATION, Cause.MISSING_RESIDUAL)
"""Causes that are mended at the first layer."""

LAST = (Cause.UNSCALED_TARGETS, Cause.WRONG_LAST_LAYER, Cause.WRONG_LOSS_OR_OUTPUT)
"""Causes that are mended at the layer of the output."""


def layer_of(known: Evidence, cause: Cause) -> str | None:
    """Return the layer at fault; None where the cause has none, or it is not known."""
    stated = [f.layer for f in known.findings if f.what == cause and f.layer is not None]
    if stated:
        return stated[0]
    measured = known.measures or Measures()
    if cause == Cause.BAD_INITIALISATION and abs(measured.weights) > DRAWN[0]:
        return measured.layer or None
    return None if known.history is None else _by_place(known.history, cause)


def _by_place(history: History, cause: Cause) -> str | None:
    layers = sorted(history.layers, key=lambda layer: layer.depth)
    if cause in FIRST:
        return layers[0].name if layers else None
    if cause in LAST:
        return next((layer.name for layer in reversed(layers) if layer.output), None)
    if cause == Cause.BAD_INITIALISATION and (number := furthest_from_usual(history)) is not None:
        return history.layers[number].name
    if cause == Cause.SATURATING_ACTIVATION:
        flat = [one for one in layers if one.activation in ("sigmoid", "tanh") and not one.output]
        return flat[0].name if flat else None
    return None
