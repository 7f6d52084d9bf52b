"""The interface of an engine, which trains several runs, each as the plain loop would."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import ClassVar, Self

from etude.errors import BadValueError, EtudeError
from etude.training.request import AdvanceRequest
from etude.training.run import Run


class Engine(ABC):
    """Trains runs of one task; each engine decides where and how to compute them.

    Between two calls the state of every run is complete: a run can be evaluated, saved, recorded,
    or trained further by another engine.

    Attributes:
        name: The name of the engine.
        notes: Explanations of what it did in another way than requested, without repetition.
    """

    name: ClassVar[str]

    def __init__(self) -> None:
        self.notes: list[str] = []

    @abstractmethod
    def advance(self, runs: Sequence[Run], request: AdvanceRequest | int | None = None) -> None:
        """Train every run as far as requested, or until it has ended.

        Args:
            runs: The runs, all of one task. Runs that have reached the requested step or have
                ended do not change.
            request: How far to train, and where to evaluate. A number trains to that number of
                updates and None trains each run to its end, both without evaluations. `stop` is
                called often.

        Raises:
            EtudeError: If a run fails. The message names the run; the other runs keep their
                progress.
        """

    def parallel(self, runs: Sequence[Run]) -> int:
        """Return how many of some runs are trained at the same time, with the loop's bits."""
        return min(1, len(runs))

    def open(self) -> None:  # noqa: B027
        """Connect to what the engine needs, such as a cluster, so that a failure comes early."""

    def close(self) -> None:  # noqa: B027  (most engines have no resources)
        """Free the engine's processes and memory."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def explain(self, sentence: str) -> None:
        """Add a sentence to the notes and warn with it, unless it is already there."""
        if sentence not in self.notes:
            self.notes.append(sentence)
            warnings.warn(sentence, stacklevel=3)


def check_runs(runs: Sequence[Run]) -> None:
    """Check that no run is listed twice.

    Raises:
        BadValueError: If one is; the message gives the index of the second one.
    """
    seen: set[int] = set()
    for index, run in enumerate(runs):
        if id(run) in seen:
            raise BadValueError(f"run {index} is listed twice: give each run once")
        seen.add(id(run))


def pending(runs: Sequence[Run], request: AdvanceRequest) -> list[int]:
    """Return the indices of the runs that have an update or an evaluation left to do."""
    return [i for i, run in enumerate(runs) if request.is_open(run.state)]


def describe(run: Run) -> str:
    """Return the name of a run in a message about several: its rate and seed."""
    return f"the run at lr {run.recipe.lr:g}, seed {run.recipe.seed}"


def with_run(error: EtudeError, run: Run) -> EtudeError:
    """Return a copy of an error, with a note that names the run that raised it."""
    same = type(error)(str(error))
    notes = getattr(error, "__notes__", ())
    for note in (
        notes if any(_names_run(note) for note in notes) else (*notes, f"in {describe(run)}")
    ):
        same.add_note(note)
    return same


def _names_run(note: str) -> bool:
    return note.startswith("in the run at ")
