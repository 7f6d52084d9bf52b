"""The shape of a watched run in a few numbers without units."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np

from etude.diagnosis.evidence.measures import saturated_gates, weights_at_start
from etude.diagnosis.history import Floats, History, Quantity, RunQuantity
from etude.diagnosis.symptoms.curve import loss_curve

NAN = math.nan


@dataclass(frozen=True)
class Shape:
    """A run in numbers that depend neither on its loss's unit nor on its size; NaN if unknown.

    Attributes:
        progress: (start - now) / |start| of the loss.
        noise: The noise of one loss over |start|.
        falling: The share of all progress that the last half of the run made.
        jump: log10 of the largest loss of the first fifth over the start.
        rise: log10 of the loss at the end over the start.
        broken: Whether the losses at the end are not finite.
        neighbours: The correlation of neighbouring losses after their trend is taken out.
        ratio: log10 of the median ‖Δw‖/‖w‖ of the layer that moves most.
        still: log10 of the same of the layer that moves least.
        moved: log10 of the mean ‖Δw‖/‖w‖ times the updates, of the layer that moves most.
        heavy: log10 of the largest gradient norm over the median.
        snr: The median signal to noise of the gradient.
        turning: The median cosine of consecutive updates.
        saturated: The largest median share of saturated units of a hidden layer.
        gates: The largest share of saturated gates and states of a recurrent layer, before
            training.
        weights: log10 of the size of a layer's weights, before training, over that of weights that
            the layer draws itself, where it is furthest from 0.
        dead: The largest median share of dead units of a hidden layer.
        spread: log10 of the last spread of the outputs over a batch.
        depth: The number of hidden layers.
        normalised: The number of normalisations over the hidden layers.
        squashed: The share of the hidden layers with a sigmoid or tanh.
        clipped: The share of the updates that were clipped.
        vanishing: log10 of the gradient strength of the first third of the layers over the largest.
        growth: log10 of the largest over the smallest activation deviation of hidden layers, at
            the first sample.
    """

    progress: float = NAN
    noise: float = NAN
    falling: float = NAN
    jump: float = NAN
    rise: float = NAN
    broken: float = NAN
    neighbours: float = NAN
    ratio: float = NAN
    still: float = NAN
    moved: float = NAN
    heavy: float = NAN
    snr: float = NAN
    turning: float = NAN
    saturated: float = NAN
    gates: float = NAN
    weights: float = NAN
    dead: float = NAN
    spread: float = NAN
    depth: float = NAN
    normalised: float = NAN
    squashed: float = NAN
    clipped: float = NAN
    vanishing: float = NAN
    growth: float = NAN


def shape_of(history: History) -> Shape:
    """Return the shape of a run.

    >>> loss = np.linspace(2.0, 1.0, 100)
    >>> found = shape_of(History(100, loss, loss, np.arange(0)))
    >>> round(found.progress, 2), found.broken, found.depth
    (0.47, 0.0, 0.0)
    """
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numpy's, of layers without a reading
        return Shape(**{**_losses(history), **_layers(history), **_run(history)})


def _losses(history: History) -> dict[str, float]:
    curve = loss_curve(history)
    found = {"broken": float(history.broken_from is not None)}
    if curve is None:
        return found
    loss, unit = curve.loss, max(abs(curve.start), 1e-12)
    middle = float(np.median(loss[len(loss) // 2 - len(loss) // 20 - 1 : len(loss) // 2 + 2]))
    fell = curve.start - curve.now
    found |= {
        "progress": fell / unit,
        "noise": curve.noise / unit,
        "falling": (middle - curve.now) / fell if fell > 1e-3 * unit else NAN,
        "jump": _log(float(loss[: max(3, len(loss) // 5)].max()) / unit),
        "rise": _log(max(curve.now, 1e-12) / unit),
        "neighbours": _neighbours(loss, 0.02 * unit),
    }
    return found


def _neighbours(loss: Floats, least: float) -> float:
    """Return the correlation of neighbouring losses around lines over 32 of them.

    Lines from which the losses stray by less than a bound, as those of whole batches, give 0.
    """
    rows = [loss[i : i + 32] for i in range(0, len(loss) - 31, 32)][-8:]
    found = []
    for row in rows:
        rest = row - np.polyval(np.polyfit(np.arange(32), row, 1), np.arange(32))
        size = float(np.mean(rest**2))
        found.append(float(np.mean(rest[1:] * rest[:-1])) / size if size > least**2 else 0.0)
    return float(np.median(found)) if found else NAN


def _layers(history: History) -> dict[str, float]:
    hidden = [
        n for n, layer in enumerate(history.layers)
        if not layer.output and layer.kind not in ("normalisation", "embedding")
    ]  # fmt: skip
    norms = sum(layer.kind == "normalisation" for layer in history.layers)
    squashed = [n for n in hidden if history.layers[n].activation in ("sigmoid", "tanh")]
    found = {
        "depth": float(len(hidden)),
        "normalised": norms / len(hidden) if hidden else NAN,
        "squashed": len(squashed) / len(hidden) if hidden else NAN,
    }
    ratio = history.of_layers(Quantity.UPDATE_RATIO)
    weights = [n for n, one in enumerate(history.layers) if one.kind != "normalisation"]
    if ratio.size and weights:
        middle = np.nanmedian(np.where(np.isfinite(ratio), ratio, np.nan)[:, weights], axis=0)
        middle = middle[np.isfinite(middle)]
        if len(middle):
            found["ratio"], found["still"] = _log(float(middle.max())), _log(float(middle.min()))
            found["moved"] = found["ratio"] + math.log10(max(history.updates, 1))
    for name, quantity in (("saturated", Quantity.SATURATED), ("dead", Quantity.DEAD)):
        found[name] = _largest(history.of_layers(quantity)[-12:][:, hidden])
    found["gates"] = _largest(saturated_gates(history)[None])
    sizes = weights_at_start(history)
    sizes = sizes[np.isfinite(sizes)]
    found["weights"] = float(sizes[np.argmax(np.abs(sizes))]) if len(sizes) else NAN
    snr = history.of_layers(Quantity.GRADIENT_SNR)
    turning = history.of_layers(Quantity.UPDATE_COSINE)
    found["snr"] = _middle(snr)
    found["turning"] = _middle(turning)
    found |= _by_depth(history, hidden)
    return found


def _by_depth(history: History, hidden: list[int]) -> dict[str, float]:
    """Return how gradients and activations change from layer to layer."""
    order = sorted(hidden, key=lambda n: history.layers[n].depth)
    if len(order) < 3 or not history.samples:
        return {}
    strength = np.nanmedian(
        history.of_layers(Quantity.GRADIENT_NORM) * history.of_layers(Quantity.WEIGHT_NORM), axis=0
    )
    first = strength[order[: max(1, len(order) // 3)]]
    strongest = float(np.nanmax(strength)) if np.isfinite(strength).any() else 0.0
    found = {}
    if strongest > 0 and np.isfinite(first).any():
        found["vanishing"] = _log(float(np.nanmax(first)) / strongest)
    variance = history.of_layers(Quantity.ACTIVATION_VARIANCE)[:1][:, order]
    variance = variance[np.isfinite(variance) & (variance > 0)]
    if len(variance) > 2:
        found["growth"] = 0.5 * _log(float(variance.max() / variance.min()))
    return found


def _run(history: History) -> dict[str, float]:
    norms = history.of_run(RunQuantity.GRADIENT_NORM)
    norms = norms[np.isfinite(norms) & (norms > 0)]
    spread = history.of_run(RunQuantity.OUTPUT_SPREAD)
    spread = spread[np.isfinite(spread)]
    return {
        "heavy": _log(float(norms.max() / np.median(norms))) if len(norms) > 3 else NAN,
        "clipped": _mean(history.of_run(RunQuantity.CLIPPED)),
        "spread": _log(float(spread[-1])) if len(spread) else NAN,
    }


def _log(value: float) -> float:
    """Return log10 of a value between 1e-12 and 1e12; NaN of NaN."""
    return math.log10(min(max(value, 1e-12), 1e12)) if not math.isnan(value) else NAN


def _mean(values: Floats) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else NAN


def _middle(values: Floats) -> float:
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else NAN


def _largest(values: Floats) -> float:
    """Return the largest median of a column; NaN without readings."""
    known = values[:, np.any(np.isfinite(values), axis=0)] if values.size else values
    return float(np.nanmedian(known, axis=0).max()) if known.size else NAN
