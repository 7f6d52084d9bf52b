"""What the loss alone shows: divergence, spikes, standstill, oscillation."""

from __future__ import annotations

import numpy as np

from etude.diagnosis.finding import Finding, Symptom
from etude.diagnosis.history import History, LargestSample, Quantity, Steps
from etude.diagnosis.symptoms.curve import LossCurve, loss_curve
from etude.diagnosis.symptoms.departure import departure

APART = 50
"""Within so many updates, a loss that is high again belongs to the same spike."""


def diverging(history: History) -> list[Finding]:
    """Find a loss that is not finite, or that has left its start and does not come back.

    Not finite: the last two losses. Left its start: see `departure.departure`, of 20 losses or
    more.
    """
    loss = history.loss
    step = history.broken_from
    if step is not None:
        finite = loss[np.isfinite(loss)]
        evidence = {"last_finite_loss": float(finite[-1])} if len(finite) else {}
        text = f"The loss is not finite from update {step} on."
        return [Finding(Symptom.DIVERGING, text, step=step, evidence=evidence)]
    curve = loss_curve(history)
    left = None if curve is None else departure(curve)
    if curve is None or left is None:
        return []
    return [
        Finding(
            Symptom.DIVERGING,
            f"The last {left.above} of {len(curve.loss)} losses are all far above the start of "
            f"{left.start:.4g}, and do not come back: their level is {left.level:.4g}.",
            step=int(np.flatnonzero(np.isfinite(loss))[-left.above]),
            evidence={"loss": left.level, "start": left.start},
        )
    ]


def spiking(history: History) -> list[Finding]:
    """Find a loss that jumps up again and again, each time for several updates.

    A spike: 7 standard deviations above the mean of the losses before (a quarter of the run, 100
    to 1,000 of them, without earlier spikes), by at least a quarter of all that was learned, with
    the next three losses still 3.5 above. One hard batch raises one loss; a step too far raises
    those after it too. Three spikes are needed. Where the losses of the samples were read at one of
    them, the largest share that one sample had is stated: of data with a few bad samples it is
    large, of a rate that is too high it is not.
    Source of the seven: OLMo's spike score; see `History.spike_score`.
    """
    curve = loss_curve(history)
    if curve is None or len(curve.loss) < 150:
        return []
    places = _spikes(curve)
    if len(places) < 3:
        return []
    steps = np.flatnonzero(np.isfinite(history.loss))
    highest = max(float(curve.loss[place]) for place in places)
    evidence = {"spikes": float(len(places)), "highest": highest}
    said, largest = "", _largest(history, steps[places])
    if largest is not None:
        evidence |= {"largest_share": largest.share, "rows": float(largest.rows)}
        said = (
            f" At update {largest.update} the largest of the {largest.rows} rows that the loss "
            f"compares had {largest.share:.0%} of the batch's loss."
        )
    return [
        Finding(
            Symptom.SPIKING,
            f"The loss jumped {len(places)} times, to at most {highest:.4g}, and took several "
            f"updates to come back.{said}",
            step=int(steps[places[0]]),
            evidence=evidence,
        )
    ]


def _largest(history: History, starts: Steps) -> LargestSample | None:
    """Return the largest share that one sample had where a spike began; None if none was read."""
    known = [one for one in history.largest_samples if one.rows > 1]
    firsts = [
        next((one for one in known if start <= one.update < start + APART), None)
        for start in starts.tolist()
    ]
    return max((one for one in firsts if one), key=lambda one: one.share, default=None)


def _spikes(curve: LossCurve) -> list[int]:
    """Return the first update of each spike; a spike is no part of what later ones stand out of."""
    loss = curve.loss
    worth = 0.25 * max(0.0, curve.start - curve.best)
    window = int(np.clip(len(loss) // 4, 100, 1_000))
    ends = np.arange(100, len(loss) - 3)
    starts = np.maximum(0, ends - window)
    after = np.minimum.reduce([loss[ends + k] for k in (1, 2, 3)])
    calm = np.ones(len(loss))
    places: list[int] = []
    for _ in range(10):
        shifted = loss - loss[0]
        count, total, square = (
            np.concatenate([[0.0], np.cumsum(v * calm)])
            for v in (np.ones(len(loss)), shifted, shifted**2)
        )
        size = np.maximum(1.0, count[ends] - count[starts])
        mean = (total[ends] - total[starts]) / size
        variance = (square[ends] - square[starts]) / size - mean**2
        sigma, mean = np.sqrt(np.maximum(variance, 1e-24)), mean + loss[0]
        high = (loss[ends] > mean + 7 * sigma) & (loss[ends] > mean + worth)
        hits = ends[high & (after > mean + 3.5 * sigma)]
        before, places = len(places), []
        for place in hits:
            if not places or place - places[-1] > APART:
                places.append(int(place))
            calm[place : place + APART] = 0.0
        if len(places) == before:
            break
    return places


def stalled(history: History) -> list[Finding]:
    """Find a run that stands still: the loss has not fallen, and the weights have hardly moved.

        (mean ‖Δw‖/‖w‖ of the sampled updates) · updates < 1% for every trained layer

    after at least 200 updates, with a rate that does not rise. Weights that move while the loss
    stays are left alone: many healthy runs begin with a long plateau.
    """
    curve = loss_curve(history)
    if curve is None or history.updates < 200 or curve.learned:
        return []
    lr = history.lr[np.isfinite(history.lr)]
    if len(lr) and lr[-1] > 1.05 * lr[len(lr) // 2]:
        return []
    ratio = history.of_layers(Quantity.UPDATE_RATIO)
    known = np.any(np.isfinite(ratio), axis=0)
    if history.samples < 5 or not known.any():
        return []
    moved = float(np.nanmean(ratio[:, known], axis=0).max() * history.updates)
    if not moved < 0.01:
        return []
    return [
        Finding(
            Symptom.STALLED,
            f"The loss has not fallen in {history.updates} updates, and no layer has moved by more "
            f"than {moved:.1e} of its size.",
            step=history.updates - 1,
            evidence={"moved": moved, "loss": curve.now},
        )
    ]


def oscillating(history: History) -> list[Finding]:
    """Find a loss that goes up and down from update to update without progress.

    Over the last 64 losses the correlation of neighbours is below -.5 (noise of batches gives 0),
    their standard deviation is more than 5% of the start, their median is not below 98% of the
    64 before, and the updates point to and fro: the median cosine of consecutive updates in the
    last pairs sampled is below -.5. At the edge of stability updates point to and fro too, but
    the loss goes on falling (Cohen et al. 2021, arXiv:2103.00065).
    """
    curve = loss_curve(history)
    if curve is None or len(curve.loss) < 128:
        return []
    recent, before = curve.loss[-64:], curve.loss[-128:-64]
    line = np.polyval(np.polyfit(np.arange(64), recent, 1), np.arange(64))
    rest = recent - line
    size = float(rest.std())
    if size <= 0.05 * abs(curve.start) or np.median(recent) < 0.98 * np.median(before):
        return []
    neighbours = float(np.mean(rest[1:] * rest[:-1]) / size**2)
    cosines = history.of_layers(Quantity.UPDATE_COSINE)
    cosines = cosines[np.any(np.isfinite(cosines), axis=1)]
    if neighbours > -0.5 or len(cosines) < 3:
        return []
    cosine = float(np.median(np.nanmedian(cosines[-3:], axis=1)))
    if cosine > -0.5:
        return []
    return [
        Finding(
            Symptom.OSCILLATING,
            f"The loss goes up and down from update to update around {np.median(recent):.4g}, "
            f"and consecutive updates undo each other (cosine {cosine:.2f}).",
            step=history.updates - 64,
            evidence={"neighbours": neighbours, "cosine": cosine},
        )
    ]
