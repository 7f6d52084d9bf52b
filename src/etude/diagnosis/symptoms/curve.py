"""Levels and noise of a loss curve, on which several symptoms stand."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from etude.diagnosis.history import Floats, History

EARLY = 3
"""The fewest losses whose median is a level."""


@dataclass(frozen=True)
class LossCurve:
    """A loss curve in a few numbers.

        start: median of the first n/20 losses (3 to 20); of the first 3, if that is lower by four
               times the noise: a run that breaks in its first updates starts before it breaks
        now:   median of the last n/10 losses (5 to 100)
        noise: 1.4826/√2 · median |loss_t - loss_{t-1}|, the standard deviation between neighbours

    Attributes:
        loss: The finite losses, in order.
        start: The level at the start.
        now: The level at the end.
        best: The lowest level of as many losses as `now` is a median of.
        noise: The noise of one loss.
        learned: Whether now < start by more than four standard errors, and a thousandth of start.
    """

    loss: Floats
    start: float
    now: float
    best: float
    noise: float
    learned: bool


def loss_curve(history: History) -> LossCurve | None:
    """Return the curve; None where fewer than 10 losses are known, or optimizers play a game.

    The curve of the last history is kept, since every rule asks for it.

    >>> loss = np.linspace(2.0, 1.0, 100)
    >>> curve = loss_curve(History(100, loss, loss, np.arange(0)))
    >>> curve.learned, round(curve.start, 2), round(curve.now, 2)
    (True, 1.98, 1.05)
    """
    global _last
    kept = _last
    if kept[0]() is not history:
        kept = _last = weakref.ref(history), _curve_of(history)
    return kept[1]


_last: tuple[Callable[[], History | None], LossCurve | None] = (lambda: None), None


def _curve_of(history: History) -> LossCurve | None:
    loss = history.loss[np.isfinite(history.loss)]
    if len(loss) < 10 or not history.one_loss:
        return None
    first = int(np.clip(len(loss) // 20, EARLY, 20))
    last = int(np.clip(len(loss) // 10, 5, 100))
    start, now = float(np.median(loss[:first])), float(np.median(loss[-last:]))
    noise = float(1.4826 / np.sqrt(2) * np.median(np.abs(np.diff(loss))))
    if start - (early := float(np.median(loss[:EARLY]))) > 4 * noise:
        start, first = early, EARLY
    blocks = loss[: len(loss) // last * last].reshape(-1, last)
    best = min(float(np.median(blocks, axis=1).min()), now)
    error = 1.25 * noise * (1 / first + 1 / last) ** 0.5
    learned = start - now > max(4 * error, 1e-3 * abs(start))
    return LossCurve(loss, start, now, best, noise, learned)


def falls_still(curve: LossCurve) -> bool:
    """Return whether the loss fell in the second half of the run.

        fall of its line of least squares > max(4 · σ · √(12/n), start/1000)

    where n is the number of its losses and σ the larger of `noise` and of their standard deviation
    around the line; √(12/n) · σ is the standard error of the fall.

    >>> loss = np.linspace(2.0, 1.0, 100)
    >>> falls_still(loss_curve(History(100, loss, loss, np.arange(0))))
    True
    """
    half = curve.loss[len(curve.loss) // 2 :]
    n, at = len(half), np.arange(len(half))
    slope, level = np.polyfit(at, half, 1)
    sigma = max(curve.noise, float(np.std(half - level - slope * at)))
    return bool(-slope * n > max(4 * sigma * (12 / n) ** 0.5, 1e-3 * abs(curve.start)))
