"""What rates that were trained with several seeds say of each other: paired differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from etude.record import Evaluation
from etude.trials.score import Goal
from etude.tuning.judged_trial import JudgedTrial

SIDES = 0.975
"""The quantile of Student's t that takes the place of two standard errors."""


@dataclass(frozen=True, eq=False)
class SeedEvidence:
    """The trials of the rates that were trained with every seed.

    Attributes:
        rows: For each rate its trials, that of the recipe's own seed first; two rates at least.
        goal: What is compared.
    """

    rows: Mapping[float, tuple[JudgedTrial, ...]]
    goal: Goal

    @property
    def count(self) -> int:
        """The number of seeds."""
        return len(next(iter(self.rows.values())))

    def broke(self, trial: JudgedTrial) -> bool:
        """Return whether a rate diverged with one of the seeds."""
        return any(one.diverged for one in self.rows.get(trial.lr, ()))

    def pair(self, trial: JudgedTrial, best: JudgedTrial) -> tuple[Evaluation, Evaluation] | None:
        """Return the means over seeds after as many updates, the last that all trials share.

        None where one of the rates was trained with the first seed alone.
        """
        step = self._step(trial, best)
        if step is None:
            return None
        mine, other = (
            over_seeds([e for one in self.rows[c.lr] if (e := one.at(step)) is not None])
            for c in (trial, best)
        )
        return mine, other

    def error(self, trial: JudgedTrial, best: JudgedTrial) -> tuple[float, int]:
        """Return the standard error that the seeds add to a difference, and its degrees of freedom.

            s / sqrt(k),  s² = sum over rates r and seeds i of (d_ri - mean of d_r)² / (R (k - 1))

        with d_ri the difference of rate r to the best with seed i, of k seeds and R rates. A rate
        that was trained with the first seed alone has k = 1 in the first term. The validation
        samples are the same for every seed: their noise comes beside it.
        """
        squares, freedom = 0.0, 0
        for other in (row[0] for lr, row in self.rows.items() if lr != best.lr):
            gaps = self._differences(other, best)
            if len(gaps) < 2:
                continue
            centre = math.fsum(gaps) / len(gaps)
            squares += math.fsum((gap - centre) ** 2 for gap in gaps)
            freedom += len(gaps) - 1
        if not freedom:
            return 0.0, 0
        shared = self.count if self._step(trial, best) is not None else 1
        return math.sqrt(squares / freedom / shared), freedom

    def half_error(self, trial: JudgedTrial, best: JudgedTrial) -> float:
        """Return half of the half width of the 95% interval that the seeds add to a difference.

        It is t/2 standard errors, so that twice this stands where two standard errors would, with
        the t of so few seeds.
        """
        from scipy.stats import t  # imported here, because loading it is slow

        error, freedom = self.error(trial, best)
        return error * float(t.ppf(SIDES, freedom)) / 2 if freedom else 0.0

    def _differences(self, trial: JudgedTrial, best: JudgedTrial) -> list[float]:
        """Return the difference to the best with each seed, after as many updates."""
        step = self._step(trial, best)
        if step is None:
            return []
        found = []
        for one, mark in zip(self.rows[trial.lr], self.rows[best.lr], strict=True):
            found.append(self.goal.score(one.at(step)) - self.goal.score(mark.at(step)))
        return found

    def _step(self, trial: JudgedTrial, best: JudgedTrial) -> int | None:
        """Return the last update after which both rates were evaluated with every seed."""
        if trial.lr not in self.rows or best.lr not in self.rows:
            return None
        all_trials = [*self.rows[trial.lr], *self.rows[best.lr]]
        for look in reversed(all_trials[0].evaluated()):
            found = [one.at(look.step) for one in all_trials]
            if look.step > 0 and all(
                e is not None and math.isfinite(self.goal.score(e)) for e in found
            ):
                return look.step
        return None


def over_seeds(found: Sequence[Evaluation]) -> Evaluation:
    """Return the mean of evaluations on the same validation samples, slice by slice.

    >>> over_seeds([Evaluation(8, 1.0, None, (1.0, 1.0)), Evaluation(8, 3.0, None, (2.0, 4.0))])
    Evaluation(step=8, loss=2.0, metric=None, parts=(1.5, 2.5), metric_parts=(), weight=None)
    """
    metrics = [e.metric for e in found if e.metric is not None]
    return replace(
        found[0],
        loss=_mean([e.loss for e in found]),
        metric=_mean(metrics) if len(metrics) == len(found) else None,
        parts=tuple(map(_mean, zip(*(e.parts for e in found), strict=False))),
        metric_parts=tuple(map(_mean, zip(*(e.metric_parts for e in found), strict=False))),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
