"""A rate that was tried, as a result tells of it."""

from __future__ import annotations

from dataclasses import dataclass

from etude.record import Record, Status

FOLLOWED = 3 / 4
"""Share of a run from which on its score is held against the finished best's."""


@dataclass(frozen=True)
class TrialSummary:
    """One rate that was tried.

    Attributes:
        lr: The rate.
        record: What happened, as far as it was taken.
        unstable: Whether it diverged, or, above the best, had lost at its end what it learned.
        tied: Whether it cannot be told apart from the best, having been followed far enough.
        folder: Where the run folder keeps it.
    """

    lr: float
    record: Record
    unstable: bool
    tied: bool
    folder: str = ""

    @property
    def followed(self) -> bool:
        """Whether it went to three quarters of its run at least, where the end can be told."""
        record = self.record
        if record.status == Status.DIVERGED:
            return False
        return record.status == Status.FINISHED or record.cost.steps + 1 > FOLLOWED * record.length
