"""A rate that was tried, as a result tells of it."""

from __future__ import annotations

from dataclasses import dataclass

from etude.record import Record, Status

FOLLOWED = 3 / 4
"""Share of a run from which on its score is held against the finished best's."""


@dataclass(frozen=True)
class SeedRun:
    """How a rate did with one of several seeds.

    Attributes:
        seed: The seed.
        updates: How many updates it was trained.
        value: Its last loss or metric, whichever is compared; None without one.
        diverged: Whether a NaN or Inf ended it.
    """

    seed: int
    updates: int
    value: float | None
    diverged: bool


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
        seeds: How it did with each seed, where it was trained with several: the recipe's first.
    """

    lr: float
    record: Record
    unstable: bool
    tied: bool
    folder: str = ""
    compared: float | None = None
    seeds: tuple[SeedRun, ...] = ()

    @property
    def broken_seed(self) -> SeedRun | None:
        """The first seed beside the recipe's own with which it diverged; None without one."""
        return next((one for one in self.seeds[1:] if one.diverged), None)

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
