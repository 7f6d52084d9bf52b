"""Optuna's samplers propose the values of a plan's ranges, round by round."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

from etude.errors import BadValueError, MissingExtraError
from etude.optimizers.choice import OptimizerChoice
from etude.randomness import random_state_kept
from etude.storage.study import StoredStudy, TrialState
from etude.studies.axes import FIELDS, Axes
from etude.studies.plan import StudyPlan
from etude.studies.ranges import Span
from etude.studies.trials import MOST, PlannedTrial, planned_part
from etude.warning_filters import logger_kept

ROUND = 8
"""How many proposals of one search are trained before the next ones are made. It is the same
everywhere, since the proposals depend on it."""


@dataclass(frozen=True)
class RangeSearch:
    """What is sampled for one combination of the values that are no ranges.

    Attributes:
        base: A trial of this combination.
        spans: The range of each field of the recipe that is sampled.
        seeds: The seeds with which each proposal is trained.
    """

    base: PlannedTrial
    spans: Mapping[str, Span]
    seeds: tuple[int, ...]

    def trials(self, values: Mapping[str, Any]) -> list[PlannedTrial]:
        """Return the trials of one proposal, one for each seed."""
        return [
            replace(self.base, recipe=self.base.recipe.replace(**values, seed=seed))
            for seed in self.seeds
        ]


def searches(plan: StudyPlan) -> list[RangeSearch]:
    """Return the searches of a plan; the ends of every range are checked.

    Raises:
        BadValueError: If nothing is sampled, or a value is out of bounds.
        TaskError: If a task cannot be built.
    """
    found = []
    for part in plan.parts():
        spans = {a: v for a in FIELDS if isinstance(v := getattr(part, a), Span) and a != "seeds"}
        bases = list(planned_part(_at_end(part, spans, 0)))
        list(planned_part(_at_end(part, spans, -1)))
        for base in bases:
            rates = part.rates(base.recipe.optimizer.name) if part.lrs is not None else None
            own = {**spans, "lrs": rates} if isinstance(rates, Span) else spans
            if not own:
                raise BadValueError(
                    f"sampler={plan.sampler!r} has no range to sample"
                    f"{_of(part, base)}: give one, such as lrs = {{from = 1e-4, to = 1.0}}"
                )
            if plan.sampler == "cmaes" and len(own) < 2:
                raise BadValueError(
                    "sampler='cmaes' needs at least two ranges, and there is one, "
                    f"{next(iter(own))}: give sampler='tpe' or 'gp', or another range"
                )
            ranges = {FIELDS[axis]: span for axis, span in own.items()}
            found.append(RangeSearch(base, ranges, part.seeds or (0,)))
    count = sum(len(one.seeds) for one in found) * (plan.trials or 0)
    if count > MOST:
        raise BadValueError(f"the plan has {count:,} trials: give fewer, at most {MOST:,}")
    return found


def _of(part: Axes, base: PlannedTrial) -> str:
    return f" for {base.recipe.optimizer.name!r}" if isinstance(part.lrs, Mapping) else ""


def _at_end(part: Axes, spans: Mapping[str, Span], end: int) -> Axes:
    """Return a part of a plan with one end of each range alone, and one seed."""
    own = {name: getattr(part, name) for name in Axes.model_fields}
    own |= {axis: (span[end],) for axis, span in spans.items()}
    own["seeds"] = (part.seeds or (0,))[:1]
    if isinstance(part.lrs, Mapping):
        names = {OptimizerChoice.of(one).name for one in part.optimizers or ()}
        own["lrs"] = {
            name: (values[end],) if isinstance(values, Span) else values
            for name, values in part.lrs.items()
            if name in names
        }
    return Axes.model_construct(**own)


@dataclass
class _Asked:
    """A proposal that waits for its result."""

    search: RangeSearch
    study: Any
    trial: Any
    trials: list[PlannedTrial]


class Sampled:
    """Proposes the trials of a plan with a sampler; equal results give equal proposals.

    Each combination of the values that are no ranges is a search of its own. A search makes
    `trials` proposals, `ROUND` at a time, and is told their results in the order in which they
    were made; a result is the mean validation loss over the seeds.

    Args:
        plan: The plan.

    Raises:
        MissingExtraError: If Optuna, or what a sampler needs, is not installed.
        BadValueError: As for `searches`.
    """

    def __init__(self, plan: StudyPlan) -> None:
        assert plan.sampler is not None
        assert plan.trials is not None
        self._optuna, self.plan = _load("optuna", "pip install 'etude[search]'"), plan
        if plan.sampler == "cmaes":
            _load("cmaes", "pip install 'etude[search]'")
        self.searches = searches(plan)
        self._left = plan.trials
        self._asked: list[_Asked] = []
        with _quiet():
            self._studies = [
                self._optuna.create_study(sampler=self._sampler(i))
                for i in range(len(self.searches))
            ]

    def _sampler(self, seed: int) -> Any:
        kinds = self._optuna.samplers
        if self.plan.sampler == "tpe":
            return kinds.TPESampler(seed=seed, constant_liar=True)
        kind = {"random": "RandomSampler", "gp": "GPSampler", "cmaes": "CmaEsSampler"}
        return getattr(kinds, kind[str(self.plan.sampler)])(seed=seed)

    def first(self) -> list[PlannedTrial]:
        """Return the trials of the first round, for which no result is needed."""
        return self._next({})

    def propose(self, stored: StoredStudy) -> list[PlannedTrial]:
        """Return the trials of the first round that is not finished; none if all are.

        Args:
            stored: The study, with the results of the rounds before.
        """
        where = f"of the study {stored.name!r}"
        return self._next(
            {
                PlannedTrial.from_plain(one.parameters, f"trial {one.number} {where}").key: (
                    _loss(one.loss, one.diverged) if one.state == TrialState.DONE else None
                )
                for one in stored.trials()
                if one.state in (TrialState.DONE, TrialState.FAILED)
            }
        )

    def _next(self, losses: Mapping[Any, float | None]) -> list[PlannedTrial]:
        while self._left or self._asked:
            if not self._asked:
                self._ask()
            trials = {one.key: one for asked in self._asked for one in asked.trials}
            if not trials.keys() <= losses.keys():
                return list(trials.values())
            self._tell(losses)
        return []

    def _ask(self) -> None:
        count = min(ROUND, self._left)
        self._left -= count
        with _quiet(), random_state_kept(0):
            for search, study in zip(self.searches, self._studies, strict=True):
                space = {name: self._distribution(name, s) for name, s in search.spans.items()}
                for _ in range(count):
                    trial = study.ask(space)
                    self._asked.append(_Asked(search, study, trial, search.trials(trial.params)))

    def _tell(self, losses: Mapping[Any, float | None]) -> None:
        failed = self._optuna.trial.TrialState.FAIL
        with _quiet(), random_state_kept(0):
            for one in self._asked:
                found = [losses[trial.key] for trial in one.trials]
                values = [value for value in found if value is not None]
                if len(values) < len(found):
                    one.study.tell(one.trial, state=failed)
                else:
                    one.study.tell(one.trial, math.fsum(values) / len(values))
        self._asked = []

    def _distribution(self, field: str, span: Span) -> Any:
        """Return what Optuna samples: at equal ratios, or at the distances of `by`."""
        kinds = self._optuna.distributions
        whole = field != "lr" and all(isinstance(end, int) for end in (span[0], span[-1]))
        kind = kinds.IntDistribution if whole else kinds.FloatDistribution
        step = span.table.get("by")
        if step is not None:
            return kind(span[0], span[-1], step=step)
        return kind(span[0], span[-1], log=True)


def _load(module: str, install: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError(f"a sampler needs {module} ({error}): {install}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what Optuna would tell of each trial, for a block."""
    with logger_kept("optuna"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _loss(loss: float | None, diverged: bool | None) -> float:
    return math.inf if diverged or loss is None or math.isnan(loss) else loss
