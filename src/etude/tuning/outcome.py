"""How a tuning ended."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """What a tuning can say of its rate; each is equal to the word that files and JSON hold.

    Attributes:
        FOUND: The rate is the best of those tried, with tried ones on both sides.
        AT_AN_EDGE: It is the lowest or highest one tried, and the budget held no further one.
        TOO_SMALL_TO_TELL: Rates more than a decade apart all tie after the little that the budget
            held; no other rate was tried with the chosen recipe; or what was seen speaks against
            the chosen rate: it overfits and no lower one was followed, or one that was left stood
            clearly ahead of it. `doubts` say which.
        UNFINISHED: The best rate diverged before its end, and the budget held no second finish.
        NO_BETTER_THAN_A_CONSTANT: An output that is the same for every input scores as well.
        NOTHING_TRAINS: No rate ended better than untrained.
    """

    FOUND = "found"
    AT_AN_EDGE = "at an edge"
    TOO_SMALL_TO_TELL = "too small to tell"
    UNFINISHED = "unfinished"
    NO_BETTER_THAN_A_CONSTANT = "no better than a constant"
    NOTHING_TRAINS = "nothing trains"
