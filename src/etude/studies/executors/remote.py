"""Executors whose workers may be lost: the group is trained again, and a trial that kills fails."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from etude.errors import BadValueError, shown
from etude.storage.study.study import MOST_LOST
from etude.studies.executors.base import Executor
from etude.studies.executors.worker import PlainResult, trained
from etude.studies.groups import TrainedTrial
from etude.studies.trials import PlannedTrial

MOST_LOST_GROUP = 3
"""After how many lost workers the trials of a group are trained alone, to find the one that kills
its worker."""


@dataclass(frozen=True)
class Lost:
    """A job ended without a result, since its worker was lost.

    Attributes:
        reason: Why, as far as is known.
    """

    reason: str


@dataclass(eq=False)
class RemoteJob:
    """Trials that one worker trains together.

    Attributes:
        key: Of the group.
        places: Of the trials in their group.
        trials: The plain form of each.
        lost: How many workers were lost with it.
    """

    key: int
    places: tuple[int, ...]
    trials: Sequence[Mapping[str, Any]]
    lost: int = 0

    def alone(self) -> list[RemoteJob]:
        """Return one job for each trial."""
        pairs = zip(self.places, self.trials, strict=True)
        return [RemoteJob(self.key, (place,), (trial,)) for place, trial in pairs]


@dataclass
class _Open:
    """A group in training: what came of its trials so far."""

    found: list[TrainedTrial | None] = field(default_factory=list)


class RemoteExecutor(Executor):
    """Trains groups in other processes.

    A job whose worker is lost is started again. After `MOST_LOST_GROUP` times the trials of the
    group are trained alone; one that still loses its worker `MOST_LOST` times fails.
    """

    def __init__(self) -> None:
        self._open: dict[int, _Open] = {}

    @abstractmethod
    def start(self, job: RemoteJob) -> None:
        """Start a job on a worker, now or when one is free."""

    @abstractmethod
    def ended(self, seconds: float) -> Iterable[tuple[RemoteJob, Sequence[PlainResult] | Lost]]:
        """Return the jobs that have ended; wait for the first one for some seconds at most."""

    def submit(self, key: int, trials: Sequence[PlannedTrial]) -> None:
        """Hand in a group of trials of one task."""
        self._open[key] = _Open([None] * len(trials))
        places = tuple(range(len(trials)))
        self.start(RemoteJob(key, places, [one.plain() for one in trials]))

    def collect(self, seconds: float) -> list[tuple[int, list[TrainedTrial]]]:
        """Return the groups that have ended since the last call."""
        done: list[tuple[int, list[TrainedTrial]]] = []
        for job, outcome in self.ended(seconds):
            found = self._results(job, outcome)
            group = self._open[job.key]
            for place, one in zip(job.places, found, strict=False):
                group.found[place] = one
            whole = [one for one in group.found if one is not None]
            if len(whole) == len(group.found):
                done.append((job.key, whole))
                del self._open[job.key]
        return done

    def _results(self, job: RemoteJob, outcome: Sequence[PlainResult] | Lost) -> list[TrainedTrial]:
        """Return what came of a job; nothing if it is started again."""
        if not isinstance(outcome, Lost):
            return [trained(one) for one in outcome]
        job.lost += 1
        if len(job.places) > 1:
            again = [job] if job.lost < MOST_LOST_GROUP else job.alone()
        elif job.lost < MOST_LOST:
            again = [job]
        else:
            return [TrainedTrial(error=f"its worker was lost {job.lost} times: {outcome.reason}")]
        for one in again:
            self.start(one)
        return []


def refuse_count(name: str, value: object) -> None:
    """Raise unless a value is a whole number from 1 on.

    Raises:
        BadValueError: If it is anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise BadValueError(f"{name}={shown(value)} is out of bounds: give a whole number from 1")
