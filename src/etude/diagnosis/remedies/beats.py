"""Whether a remedy is better than the unchanged run by more than noise."""

from __future__ import annotations

import math

from etude.record import Evaluation
from etude.trials.baseline import LEAST, better
from etude.trials.score import Goal

CHANCE = 0.00135
"""The probability of a gain of three standard errors or more by chance."""


def beats(found: Evaluation, mark: Evaluation, goal: Goal) -> bool:
    """Return whether an evaluation is better than another on the same slices.

    It is if the mean of the differences is beyond three standard errors; see
    `etude.trials.baseline.better`. A run that diverges, or nearly, has a few slices with a huge
    loss, and these make the standard error as large as the mean. There, the ranks of the
    differences decide: by Wilcoxon's signed-rank test, chance must give them in 1 of 740 cases at
    most, as three standard errors do. The mean must be better too, by 0.5%.

    Args:
        found: The evaluation of the remedy.
        mark: The evaluation of the other run.
        goal: The loss or metric to compare.

    Source: Wilcoxon 1945.

    >>> fine = Evaluation(9, 0.1, None, (0.1,) * 12)
    >>> wild = Evaluation(9, 900.0, None, (0.2,) * 11 + (10_798.0,))
    >>> better(fine, wild, Goal()), beats(fine, wild, Goal()), beats(wild, fine, Goal())
    (False, True, False)
    """
    if better(found, mark, goal):
        return True
    gain = goal.score(mark) - goal.score(found)
    if not (math.isfinite(gain) and gain > LEAST * abs(goal.score(mark))):
        return False
    pairs = list(zip(goal.parts(mark), goal.parts(found), strict=False))
    differences = [a - b for a, b in pairs if a != b]
    if not differences or not all(map(math.isfinite, differences)):
        return False
    from scipy.stats import wilcoxon

    return float(wilcoxon(differences, alternative="greater").pvalue) < CHANCE
