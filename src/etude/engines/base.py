"""What an engine is: it takes several runs further, each as the plain loop would."""

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
    """Takes runs of one task further; where and how they are computed is its own affair.

    Between two calls every run is whole: it can be evaluated, saved, recorded, or taken further
    by another engine.

    Attributes:
        name: What to call it.
        notes: Sentences on what it did otherwise than asked, each said once.
    """

    name: ClassVar[str]

    def __init__(self) -> None:
        self.notes: list[str] = []

    @abstractmethod
    def advance(self, runs: Sequence[Run], request: AdvanceRequest | int | None = None) -> None:
        """Train every run as far as is asked for, or until it has ended.

        Args:
            runs: All of one task; those that stand there or have ended are left alone.
            request: What is asked for; a number of updates, or None for each run's own end,
                stands for a request without evaluations. `stop` is asked often.

        Raises:
            EtudeError: If a run fails; it is named, and the others keep what they have.
        """

    def close(self) -> None:  # noqa: B027  (most engines hold nothing)
        """Give back what the engine holds."""

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
        """Note a sentence and warn with it, unless it was said before."""
        if sentence not in self.notes:
            self.notes.append(sentence)
            warnings.warn(sentence, stacklevel=3)


def check_runs(runs: Sequence[Run]) -> None:
    """Refuse the same run twice.

    Raises:
        BadValueError: With the place of the second one.
    """
    seen: set[int] = set()
    for index, run in enumerate(runs):
        if id(run) in seen:
            raise BadValueError(f"run {index} is listed twice: give each run once")
        seen.add(id(run))


def pending(runs: Sequence[Run], request: AdvanceRequest) -> list[int]:
    """Return the places of the runs that have something left to do."""
    return [i for i, run in enumerate(runs) if request.is_open(run.state)]


def describe(run: Run) -> str:
    """Name a run to whoever asked for several: by its rate and seed."""
    return f"the run at lr {run.recipe.lr:g}, seed {run.recipe.seed}"


def blame(error: EtudeError, run: Run) -> EtudeError:
    """Return the same error, with a note on which run it comes from: what it says comes first."""
    same = type(error)(str(error))
    notes = getattr(error, "__notes__", ())
    for note in (
        notes if any(_names_run(note) for note in notes) else (*notes, f"in {describe(run)}")
    ):
        same.add_note(note)
    return same


def _names_run(note: str) -> bool:
    return note.startswith("in the run at ")
