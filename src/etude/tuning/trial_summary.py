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
        tied: Whether it lies in the result's tied range: as far as it was followed, it may end as
            well as the best.
        folder: Where the run folder keeps it.
        compared: The loss or metric by which it was compared at its last pause, where that is of
            the mean of its weights and not of the weights themselves.
    """

    lr: float
    record: Record
    unstable: bool
    tied: bool
    folder: str = ""
    compared: float | None = None

    @property
    def left_open(self) -> bool:
        """Whether it was left before its end could be told: neither diverged nor followed."""
        return not (self.record.status == Status.DIVERGED or self.followed)

    @property
    def followed(self) -> bool:
        """Whether it went to three quarters of its run at least, where the end can be told."""
        record = self.record
        if record.status == Status.DIVERGED:
            return False
        return record.status == Status.FINISHED or record.cost.steps + 1 > FOLLOWED * record.length
