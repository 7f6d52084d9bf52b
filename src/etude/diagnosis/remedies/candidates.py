"""Remedies in training beside an unchanged control, each in the pool of its task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from etude.diagnosis.remedies.remedy import Applied, Remedy
from etude.errors import EtudeError
from etude.recipe import Recipe
from etude.tasks.task import Task
from etude.trials.phase import Phase
from etude.trials.pool import TrialContext, TrialPool
from etude.trials.score import Goal
from etude.trials.trial import Trial


@dataclass(eq=False)
class Candidate:
    """A remedy in training."""

    applied: Applied
    drawn: bool
    pool: TrialPool
    trial: Trial


class Candidates:
    """The control and the remedies of one task and recipe; a rewritten model has its own pool.

    Args:
        task: What is learned.
        recipe: The recipe that is not changed.
        goal: What is compared.
        budget: In full runs.
        setting: How trials are trained.
    """

    def __init__(
        self, task: Task, recipe: Recipe, goal: Goal, budget: float, setting: TrialContext
    ) -> None:
        self.task, self.recipe, self.goal = task, recipe, goal
        self.budget, self.setting = budget, setting
        self._by_task: dict[int, TrialPool] = {}
        self.control = self.pool(task).add(recipe, "control")

    def pool(self, task: Task) -> TrialPool:
        """Return the pool of a task."""
        if id(task) not in self._by_task:
            self._by_task[id(task)] = TrialPool(
                [task], self.recipe, self.budget, self.goal, self.setting
            )
        return self._by_task[id(task)]

    @property
    def spent(self) -> float:
        """The cost of all trials, in full runs."""
        return sum(pool.spent for pool in self._by_task.values())

    def enter(self, remedy: Remedy, *, drawn: bool = False) -> Candidate | str:
        """Return the trial of a remedy, or why there is none."""
        try:
            applied = remedy.apply(self.task, self.recipe)
            if applied is None:
                return "it would change nothing"
            pool = self.pool(applied.task)
            trial = pool.add(applied.recipe, remedy.name.replace(" ", "-").replace("/", "by"))
        except EtudeError as error:
            return str(error)
        return Candidate(applied, drawn, pool, trial)

    def advance(self, candidates: Sequence[Candidate], share: float) -> None:
        """Train candidates up to a share of their runs."""
        for pool in {id(c.pool): c.pool for c in candidates}.values():
            trials = [c.trial for c in candidates if c.pool is pool]
            pool.go(trials, share, Phase.toward(share))

    def close(self) -> None:
        """Release what the trials hold."""
        for pool in self._by_task.values():
            pool.close()
