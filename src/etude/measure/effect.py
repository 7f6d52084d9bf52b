"""The effect of another rate for a part on the loss."""

from __future__ import annotations

from enum import StrEnum


class Effect(StrEnum):
    """The effect of another rate for a part on the loss; each is equal to its word in JSON.

    Attributes:
        BETTER: The loss is lower, by more than the margin of the seeds.
        WORSE: The loss is higher, by more than the margin of the seeds.
        DIVERGED: The loss of a run became NaN or infinite.
        NOTHING: The difference is within the margin.
    """

    BETTER = "better"
    WORSE = "worse"
    DIVERGED = "diverged"
    NOTHING = "nothing"
