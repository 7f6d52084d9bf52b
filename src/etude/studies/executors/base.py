"""The interface of an executor, which trains groups of trials for the driver of a study."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from etude.studies.groups import TrainedTrial
from etude.studies.trials import PlannedTrial
from etude.tasks.references.ref import TaskRef


class Executor(ABC):
    """Trains groups of trials. It knows no database: the driver stores what it returns.

    It is used by one thread, in a `with` block.
    """

    @property
    @abstractmethod
    def slots(self) -> int:
        """How many groups to hand in at once, so that no worker is idle."""

    def check(self, refs: Sequence[TaskRef]) -> None:  # noqa: B027  (here nothing can be missing)
        """Check, before anything is trained, that the workers can build the tasks.

        Raises:
            EtudeError: If one cannot; the message names the worker and the task.
        """

    @abstractmethod
    def submit(self, key: int, trials: Sequence[PlannedTrial]) -> None:
        """Hand in a group of trials of one task.

        Args:
            key: What to call the group in `collect`.
            trials: The trials.
        """

    @abstractmethod
    def collect(self, seconds: float) -> list[tuple[int, list[TrainedTrial]]]:
        """Return the groups that have ended since the last call, with what came of each trial.

        Args:
            seconds: How long to wait for the first one, at most. An executor that trains in this
                process trains one group instead.

        Raises:
            EtudeError: If the workers cannot be reached any more.
        """

    def close(self) -> None:  # noqa: B027  (not every executor has resources)
        """End what is in training, and free all processes and memory."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
