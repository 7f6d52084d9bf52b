"""Exploding and vanishing gradients, and parameters that get none."""

from __future__ import annotations

import numpy as np

from etude.diagnosis.facts import cleared_before_step
from etude.diagnosis.finding import Finding, Symptom
from etude.diagnosis.history import Floats, History, Quantity, RunQuantity
from etude.diagnosis.symptoms.curve import loss_curve

WINDOW = 5
"""Sampled updates that a symptom is judged over."""

GROWTH = 100.0
"""The gradient's norm runs away if it is so many times the median of all that went before."""

WEAK, SLOW, LITTLE = 1e-3, 1e-2, 1e-4
"""A layer's gradient vanishes below `WEAK` of the strongest, with an update ratio below `SLOW` of
that layer's and below `LITTLE`."""


def exploding(history: History) -> list[Finding]:
    """Find gradients or weights that are not finite, or gradients that run away.

    Run-away: the last three sampled norms of the whole gradient grow, each is more than 100 times
    the median of those before, and the loss is above its start. A norm alone says nothing, since
    it depends on the loss's unit and on the width: absolute bounds (torchmortem's 1000) flag
    healthy runs.
    """
    broken = ~np.isfinite(_known(history.parameter_gradients)) | ~np.isfinite(
        _known(history.parameter_norms)
    )
    rows = np.flatnonzero(broken.any(axis=1)) if broken.size else np.empty(0, int)
    if len(rows):
        row = int(rows[0])
        bad = np.flatnonzero(broken[row])
        nearest = max(bad, key=lambda i: history.layers[history.parameters[i].layer].depth)
        parameter = history.parameters[int(nearest)]
        gradient = not np.isfinite(_known(history.parameter_gradients)[row, nearest])
        what = "gradient" if gradient else "weights"
        return [
            Finding(
                Symptom.EXPLODING,
                f"The {what} of {parameter.name} {'is' if gradient else 'are'} not finite, as in "
                f"{len(bad)} of {len(history.parameters)} parameters.",
                layer=history.layers[parameter.layer].name,
                step=int(history.steps[row]),
                evidence={"parameters": float(len(bad))},
            )
        ]
    return _run_away(history)


def _run_away(history: History) -> list[Finding]:
    norms, curve = history.of_run(RunQuantity.GRADIENT_NORM), loss_curve(history)
    if len(norms) < 8 or curve is None or curve.now <= curve.start + 4 * curve.noise:
        return []
    usual = float(np.median(norms[:-3]))
    last = norms[-3:]
    if not (usual > 0 and np.all(np.diff(last) > 0) and np.all(last > GROWTH * usual)):
        return []
    layers = history.of_layers(Quantity.GRADIENT_NORM)
    with np.errstate(all="ignore"):
        growth = layers[-1] / np.nanmedian(layers[:-3], axis=0)
    worst = int(np.nanargmax(np.nan_to_num(growth, posinf=0.0)))
    return [
        Finding(
            Symptom.EXPLODING,
            f"The gradient's norm is {last[-1] / usual:,.0f} times its median until then, and "
            "grows, while the loss rises above its start.",
            layer=history.layers[worst].name,
            step=int(history.steps[-3]),
            evidence={"norm": float(last[-1]), "usual": usual},
        )
    ]


def _known(values: Floats) -> Floats:
    """Return values with 0 where nothing was read: what is not finite is then a reading."""
    return np.where(np.isnan(values), 0.0, values)


def vanishing(history: History) -> list[Finding]:
    """Find layers near the input whose gradient is lost on the way back.

    The strength of a layer is s = ‖g‖·‖w‖, the change of the loss by a relative change of the
    weights; unlike ‖g‖ it stays as it is where a normalisation undoes the scale of w. Over the
    last five sampled updates, s of the first third of the layers is below 1/1000 of the largest,
    s grows with depth (rank correlation of .8), and these layers move by less than 1/100 of what
    the strongest moves, and by less than 1/10,000 of their size, per update. With an optimizer that
    scales by the gradient's own size, all layers move alike: there, the loss must not have fallen
    in 100 updates instead, or the network must be stuck at a constant output. Normalisations and
    embeddings are left out, as are layers that are not trained. Source of the profile by depth:
    Glorot and Bengio 2010; the bounds are ours.
    """
    chosen = [
        n
        for n, layer in sorted(enumerate(history.layers), key=lambda pair: pair[1].depth)
        if layer.kind not in ("normalisation", "embedding")
    ]
    if history.samples < WINDOW or len(chosen) < 4:
        return []
    recent = slice(-WINDOW, None)
    with np.errstate(all="ignore"):
        strength = np.median(
            history.of_layers(Quantity.GRADIENT_NORM)[recent]
            * history.of_layers(Quantity.WEIGHT_NORM)[recent],
            axis=0,
        )
        ratio = np.median(history.of_layers(Quantity.UPDATE_RATIO)[recent], axis=0)
    chosen = [n for n in chosen if np.isfinite(strength[n]) and np.isfinite(ratio[n])]
    if len(chosen) < 4 or history.steps[-1] < 8:
        return []
    first = chosen[: max(1, len(chosen) // 3)]
    strongest = max(chosen, key=lambda n: float(strength[n]))
    if strength[strongest] <= 0 or np.any(strength[first] > WEAK * strength[strongest]):
        return []
    if _rank_correlation(strength[chosen]) < 0.8 or np.all(strength[first] == 0):
        return []
    curve = loss_curve(history)
    idle = history.stuck or (curve is not None and not curve.learned and history.updates >= 100)
    still = np.all(ratio[first] < min(LITTLE, SLOW * float(ratio[strongest])))
    if not (idle if history.adaptive else still):
        return []
    share = float(strength[first[0]] / strength[strongest])
    names = [history.layers[n].name for n in (first[0], strongest)]
    return [
        Finding(
            Symptom.VANISHING,
            f"The gradient of {names[0]}, relative to its weights, is {share:.1e} of that of "
            f"{names[1]}, and falls from layer to layer towards the input.",
            layer=names[0],
            step=int(history.steps[-WINDOW]),
            evidence={"strength": share, "update_ratio": float(ratio[first[0]])},
        )
    ]


def _rank_correlation(values: Floats) -> float:
    """Return Spearman's correlation of values with their places."""
    ranks = np.argsort(np.argsort(values))
    return float(np.corrcoef(ranks, np.arange(len(values)))[0, 1])


def silent_parameter(history: History) -> list[Finding]:
    """Find parameters that an optimizer holds and that never get a gradient.

    In at least 8 sampled updates over at least 10 updates, there is no gradient at all, or the
    gradients of all parameters of the layer are exactly 0. A single parameter with a gradient of
    0 is left alone: a bias before a normalisation has one by nature. Gradients that were cleared
    before the step are another fact.
    """
    gradients, norms = history.parameter_gradients, history.parameter_norms
    if not history.samples or not history.parameters:
        return []
    read = ~np.isnan(norms)
    count = read.sum(axis=0)
    none = np.all(np.isnan(gradients), axis=0)
    zero = np.all(~read | np.isnan(gradients) | (gradients == 0), axis=0)
    long = np.array([_span(history.steps[read[:, i]]) >= 10 for i in range(len(count))])
    ready = (count >= 8) & long
    held = np.array([p.optimizer is not None and p.trainable for p in history.parameters])
    layer = np.array([p.layer for p in history.parameters])
    whole = np.array([bool(np.all(zero[held & (layer == number)])) for number in layer])
    found = np.flatnonzero(ready & held & (none | (zero & whole)))
    if not len(found):
        return []
    if len(found) == held.sum():
        if cleared_before_step(history):
            return []
        text = "At the steps, no parameter of the model has a gradient other than 0."
        return [_silent(history, int(found[0]), text, None, int(count[found[0]]))]
    told = []
    for number in dict.fromkeys(layer[found].tolist()):
        own = [i for i in found if layer[i] == number]
        first = history.parameters[own[0]].name
        more = f" and {len(own) - 1} more of its layer get" if len(own) > 1 else " gets"
        text = f"{first}{more} no gradient in any of {count[own[0]]} sampled updates."
        told.append(
            _silent(history, int(own[0]), text, history.layers[number].name, int(count[own[0]]))
        )
    return told[:3]


def _silent(history: History, number: int, text: str, layer: str | None, count: int) -> Finding:
    return Finding(
        Symptom.SILENT_PARAMETER,
        text,
        layer=layer,
        step=int(history.steps[~np.isnan(history.parameter_norms[:, number])][0]),
        evidence={"sampled_updates": float(count)},
        fix="See that the loss depends on it, and that nothing detaches it on the way.",
    )


def _span(steps: np.ndarray) -> int:
    return int(steps[-1] - steps[0]) if len(steps) else 0
