"""The phases of a tuning, under whose names its cost is reported."""

from __future__ import annotations

from enum import StrEnum

from etude.errors import member, unknown_name


class Phase(StrEnum):
    """Why trials are continued; each is equal to its text in files and JSON.

    The name of a rung also gives the share of the run at which it ends, such as 'to 25%'.
    """

    RUNG = "to"
    RECIPE_RUNG = "recipes to"
    BEYOND_EDGE = "beyond an edge"
    CURVE_TURNED = "where a curve turned"
    ANEW_LOWER = "anew, lower"
    FINISH = "finish"
    AFTER_DIVERGENCE = "after a divergence"
    RUNNER_UP = "runner-up"
    REFINE = "refine"
    EDGE_OF_STABILITY = "edge of stability"
    ANOTHER_SEED = "another seed, for a tie"
    OTHER_SEEDS = "other seeds"
    FINISH_ON_ALL = "finish on all the data"
    POPULATION = "population"
    REPEATED = "repeated, for want of a pause"

    @property
    def rung(self) -> bool:
        """Whether its name includes the share of the run at which it ends."""
        return self in (Phase.RUNG, Phase.RECIPE_RUNG)

    def at(self, share: float) -> str:
        """Return the name of the phase, for a part that ends at a share of the run.

        >>> Phase.RUNG.at(0.25), Phase.REFINE.at(0.25)
        ('to 25%', 'refine')
        """
        return f"{self} {100 * share:g}%" if self.rung else str(self)

    @classmethod
    def toward(cls, share: float) -> Phase:
        """Return the phase of the ladder that ends at a share of the run."""
        return cls.FINISH if share >= 1 else cls.RUNG

    @classmethod
    def of(cls, name: str) -> Phase:
        """Return the phase with a name.

        Raises:
            UnknownNameError: If no phase has that name.

        >>> Phase.of("to 12.5%") is Phase.RUNG, Phase.of("finish") is Phase.FINISH
        (True, True)
        """
        word, _, share = name.rpartition(" ")
        rung = _percent(share)
        phase = member(cls, word if rung else name, "part of a tuning")
        if phase.rung != rung:
            raise unknown_name("part of a tuning", name, cls)
        return phase


def _percent(text: str) -> bool:
    """Return whether a text is a percentage."""
    return text.endswith("%") and text[:-1].replace(".", "", 1).replace("e-", "", 1).isdecimal()
