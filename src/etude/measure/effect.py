"""What another rate of a part does to the loss, as far as its spread lets it be seen."""

from __future__ import annotations

from enum import StrEnum


class Effect(StrEnum):
    """What another rate of a part does to the loss; each is equal to the word that JSON holds.

    Attributes:
        BETTER: It lowers the loss by more than the spread over the seeds.
        WORSE: It raises it by more than that.
        DIVERGED: A run with it ended in NaN or infinity.
        NOTHING: The spread hides what it does.
    """

    BETTER = "better"
    WORSE = "worse"
    DIVERGED = "diverged"
    NOTHING = "nothing"
