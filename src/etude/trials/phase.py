"""What a part of a tuning is for: the names under which its cost is told."""

from __future__ import annotations

from enum import StrEnum

from etude.errors import member, unknown_name


class Phase(StrEnum):
    """Why trials are taken further; each is equal to the word that files and JSON hold.

    A rung is named with the share of the run that it leads to, such as 'to 25%'.
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
    FINISH_ON_ALL = "finish on all the data"

    @property
    def rung(self) -> bool:
        """Whether its name tells the share of the run that it leads to."""
        return self in (Phase.RUNG, Phase.RECIPE_RUNG)

    def at(self, share: float) -> str:
        """Return the name of the part of the cost that leads to a share of the run.

        >>> Phase.RUNG.at(0.25), Phase.REFINE.at(0.25)
        ('to 25%', 'refine')
        """
        return f"{self} {100 * share:g}%" if self.rung else str(self)

    @classmethod
    def toward(cls, share: float) -> Phase:
        """Return the phase that leads to a share of the run on the ladder."""
        return cls.FINISH if share >= 1 else cls.RUNG

    @classmethod
    def of(cls, name: str) -> Phase:
        """Return the phase of a part of the cost, from its name.

        Raises:
            UnknownNameError: If no part of a tuning has that name.

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
    """Whether a text is a share in percent."""
    return text.endswith("%") and text[:-1].replace(".", "", 1).replace("e-", "", 1).isdecimal()
