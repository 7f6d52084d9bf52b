"""What an assessment reads of a search; tables of past runs can stand in for one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from etude.record import Evaluation
from etude.tasks.task import Task
from etude.trials.score import Goal
from etude.tuning.search.protocol import RateTrial


class JudgedTrial(RateTrial, Protocol):
    """One rate that was tried, with its evaluations."""

    @property
    def length(self) -> int:
        """Updates of a full run."""

    @property
    def steps(self) -> int:
        """Updates that were made."""

    @property
    def reached(self) -> int:
        """Updates that were asked for."""

    @property
    def ended(self) -> bool:
        """Whether it came to its end."""

    @property
    def floor(self) -> Evaluation | None:
        """What it must beat: the best constant output, or the untrained network."""

    def evaluated(self) -> Sequence[Evaluation]:
        """Return its evaluations, in order."""

    def last(self) -> Evaluation | None:
        """Return the newest of them."""

    def at(self, step: int) -> Evaluation | None:
        """Return the one after some updates, if there was one."""


J = TypeVar("J", bound=JudgedTrial)


class JudgedPool(Protocol):
    """What all trials share."""

    @property
    def goal(self) -> Goal:
        """What is compared."""

    @property
    def untrained_score(self) -> float:
        """The score before training."""

    @property
    def constant(self) -> Evaluation | None:
        """What the best constant output scores; None where there is none."""

    @property
    def budget(self) -> float:
        """What was allowed, in full runs."""

    @property
    def tasks(self) -> Sequence[Task]:
        """The task, or one for each fold."""

    @property
    def trials(self) -> Sequence[JudgedTrial]:
        """All trials, those of other seeds and recipes too."""
