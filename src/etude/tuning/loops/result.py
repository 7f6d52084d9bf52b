"""What the tuning of a loop found: what `tune` says of a task, as far as a loop tells it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from etude.errors import BadValueError
from etude.trials.phase import Phase
from etude.tuning.result import TuneResult

UNSAID = (
    *("recipe", "selection", "constant_loss", "constant_metric"),
    *("valid_samples", "judged_on"),
)
"""What only a task's tuning knows."""


@dataclass(frozen=True, eq=False)
class LoopResult(TuneResult):
    """What the tuning of a loop found.

    All of `TuneResult`, but for what only a task and a recipe tell: `recipe` holds the rate, the
    seed and the length alone, and `model` is what the loop returned at the end of its run.
    """

    def __repr__(self) -> str:
        """Say in a line what was found."""
        return super().__repr__().replace("TuneResult", type(self).__name__, 1)

    @property
    def value(self) -> Any:
        """What the loop returned at the chosen rate; None where it was not finished."""
        return self.model

    @property
    def repeated(self) -> float:
        """The part of `cost` that repeated updates, because the loop could not be resumed."""
        return next((part.runs for part in self.costs if part.phase == Phase.REPEATED), 0.0)

    def plain(self) -> dict[str, Any]:
        """Return the findings as plain values that JSON can hold."""
        found = {k: v for k, v in super().plain().items() if k not in UNSAID}
        trials = [{k: v for k, v in t.items() if k != "folder"} for t in found["trials"]]
        return {**found, "trials": trials, "steps": self.record.length, "repeated": self.repeated}

    def save(self, folder: Path) -> NoReturn:
        """Refuse: a loop's states are its own, and a run folder could not be gone on with.

        Raises:
            BadValueError: Always; the message says what to keep instead.
        """
        raise BadValueError(
            f"{str(folder)!r}: the tuning of a loop has no run folder: keep plain() as JSON, or "
            "report(path) as a page"
        )

    @classmethod
    def load(cls, folder: str | Path) -> NoReturn:
        """Refuse, as `save` does.

        Raises:
            BadValueError: Always.
        """
        raise BadValueError(f"{str(folder)!r}: the tuning of a loop has no run folder to load")
