"""Progress: a loss that falls, and could fall much faster."""

from __future__ import annotations

import numpy as np

from etude.diagnosis.finding import Finding, Symptom
from etude.diagnosis.history import Floats, History, Quantity, RunQuantity
from etude.diagnosis.symptoms.curve import loss_curve

FEWEST = 120
"""Updates before which nothing is said."""

SHORT, NOWHERE, SMALL = 0.25, 0.1, 0.3
"""Ways shorter than these shares of a layer's size, where the loss falls and where it does not, and
a fall below this share of the start."""

FAR = 0.01
"""Below this η/η_c, a step could have been a hundred times as long."""


def moved(history: History) -> float:
    """Return how far the layers have moved: the longest way over the layer's own size.

        max over trained layers of (mean ‖Δw‖/‖w‖ of the sampled updates) · updates

    NaN if fewer than five updates were sampled.
    """
    ratio = history.of_layers(Quantity.UPDATE_RATIO)
    known = np.any(np.isfinite(ratio), axis=0)
    if history.samples < 5 or not known.any():
        return float("nan")
    return float(np.nanmean(ratio[:, known], axis=0).max() * history.updates)


def slow(history: History) -> list[Finding]:
    """Find a run that gets somewhere, at a small part of the speed that it could have.

    After at least 120 updates, with a rate that does not rise, no layer's way (see `moved`) is
    longer than a quarter of its size, less than 30% of the loss is gone, and either

    - the loss falls *steadily*: of its fall along a straight line per unit of Σ rate, the second
      half of the run has at least half of what the first half has. A rate that is high enough
      learns fast at first and then slowly; fine-tuning, which moves little too, does the same; or
    - the loss has not fallen beyond its noise, no layer's way is longer than a tenth of its size,
      and η/η_c is below 1/100 in three quarters of the last readings: these steps could have been
      a hundred times as long before they had raised the loss of their batch.

    Σ rate counts, so that a schedule that ends low is no slowing down.
    """
    curve = loss_curve(history)
    if curve is None or len(curve.loss) < FEWEST or _rises(history.lr):
        return []
    way = moved(history)
    share = (curve.start - curve.now) / abs(curve.start) if curve.start else float("nan")
    if not way < SHORT or not share < SMALL:
        return []
    room = _room(history)
    evidence = {"moved": way, "fall": share}
    if room is not None:
        evidence["rate_over_critical"] = room
    if curve.learned:
        if not _steady(history) or (room is not None and room > 0.1):
            return []
        said = f"The loss falls steadily, but has lost only {share:.0%} of its start"
    elif way < NOWHERE and room is not None and room < FAR:
        said = "The loss has not fallen beyond its noise"
    else:
        return []
    text = (
        f"{said} after {history.updates} updates, in which no layer has moved by more than "
        f"{way:.2g} of its size."
    )
    if room is not None and room < FAR:
        longer = f"{1 / room:.1g} times" if room > 0 else "any number of times"
        text += f" Most steps could have been {longer} as long before they raised the loss."
    return [Finding(Symptom.SLOW, text, step=history.updates - 1, evidence=evidence)]


def _rises(lr: Floats) -> bool:
    known = lr[np.isfinite(lr)]
    return bool(len(known) and known[-1] > 1.05 * known[len(known) // 2])


def _steady(history: History) -> bool:
    """Return whether the loss falls as fast in the second half of the way as in the first."""
    known = np.isfinite(history.loss) & np.isfinite(history.lr)
    if known.sum() < FEWEST:
        return False
    loss, way = history.loss[known], np.cumsum(history.lr[known])
    half = int(np.searchsorted(way, way[-1] / 2))
    if min(half, len(way) - half) < FEWEST // 6 or not way[-1] > 0:
        return False
    first, second = (
        float(np.polyfit(way[part] / way[-1], loss[part], 1)[0])
        for part in (slice(0, half), slice(half, None))
    )
    return second < 0 and second <= 0.5 * first


def _room(history: History) -> float | None:
    """Return what η/η_c is below in three quarters of the last readings; None if there are few."""
    over = history.of_run(RunQuantity.RATE_OVER_CRITICAL)
    over = over[~np.isnan(over)][-8:]
    return float(np.quantile(over, 0.75)) if len(over) >= 4 else None
