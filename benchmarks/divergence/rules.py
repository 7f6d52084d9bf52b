"""The rules that are compared: each maps the losses of a run to the updates of its alarms."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, pstdev

from etude.diagnosis.symptoms.rising import LossLevels

Rule = Callable[[Sequence[float]], "int | None"]
"""Returns the update of the first alarm, None without one; it reads the losses in order."""


def etude_rule(losses: Sequence[float]) -> int | None:
    """Etude: `LossLevels`, as `etude.watch` follows it."""
    levels = LossLevels()
    levels.follow(losses)
    return None if levels.rise is None else levels.rise.update


def z_score(losses: Sequence[float]) -> int | None:
    """W&B's alert: above the mean of the last 30 by 3 standard deviations."""
    recent: deque[float] = deque(maxlen=30)
    for update, loss in enumerate(losses):
        if not math.isfinite(loss):
            return update
        if len(recent) == 30 and loss > fmean(recent) + 3 * pstdev(recent):
            return update
        recent.append(loss)
    return None


def lightning(losses: Sequence[float]) -> int | None:
    """Lightning's `SpikeDetection` at its defaults: window 10, rtol 2.0, warmup 1, finite only.

    A spike: not better than the last loss, and off the running mean by twice that mean or more.
    """
    recent: deque[float] = deque(maxlen=10)
    last = 0.0
    for update, loss in enumerate(losses):
        if not math.isfinite(loss):
            return update
        if update and loss > last and abs(loss - fmean(recent)) >= abs(2.0 * fmean(recent)):
            return update
        recent.append(loss)
        last = loss
    return None


def trainscope_rule(losses: Sequence[float]) -> int | None:
    """Trainscope 1.8.1's `ChangePointDetector` at its defaults; only changes upward count."""
    from trainscope.core.detectors.changepoint import ChangePointDetector

    detector = ChangePointDetector()
    for update, loss in enumerate(losses):
        if not math.isfinite(loss):
            return update
        score = detector.update(float(loss))
        if score is not None and score > 0:
            return update
    return None


RULES: Mapping[str, Rule] = {
    "etude": etude_rule,
    "trainscope, change point": trainscope_rule,
    "z-score (30, 3)": z_score,
    "Lightning (10, 2.0)": lightning,
}
