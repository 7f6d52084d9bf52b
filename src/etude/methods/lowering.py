"""Whether the members of a population began at rates that are too high, and what to do then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from etude.record import Evaluation
from etude.trials.baseline import better
from etude.trials.score import Goal

LOWER, EARLY = 3, 0.2
"""How often rates that were not given are lowered, and after which share of the run at most."""


class Next(Enum):
    """What a population does after a generation."""

    GO_ON = "go on"
    LOWER = "begin again at lower rates"
    RETURN = "go on with the members of the first rates"


def deciding(generations: int) -> int:
    """Return the last generation that ends in the first fifth of the run; 0 if none does.

    >>> deciding(20), deciding(7), deciding(4)
    (4, 1, 0)
    """
    return max(g for g in range(generations) if g / generations <= EARLY)


@dataclass
class Lowering:
    """What is known of the rates that the members began with.

    Rates are too high if every member has diverged, or if none was ever better than the untrained
    network and every one is worse than it or has diverged. Better and worse are by more than
    noise, see `etude.trials.baseline.better`. Losses about the untrained one are no sign of it: a
    task may learn late, and rates may be too low. It is decided once for each set of rates, after
    the last generation in the first fifth of the run. If lower rates do not help, the first ones
    are taken again, unless all of them diverged.

    Attributes:
        generations: Into how many parts the run is cut.
        untrained: The evaluation before training.
        goal: What is compared.
        open: Whether anything is left to be decided.
        lowered: How often the rates were lowered.
    """

    generations: int
    untrained: Evaluation
    goal: Goal
    open: bool = True
    lowered: int = 0
    _learned: bool = False
    _first_diverged: bool = False

    def after(self, generation: int, found: Sequence[Evaluation | None]) -> Next:
        """Return what to do after a generation.

        Args:
            generation: Its number, from 1.
            found: The evaluation of each member; None if it diverged.
        """
        if not self.open:
            return Next.GO_ON
        sound = [one for one in found if one is not None]
        self._learned |= any(better(one, self.untrained, self.goal) for one in sound)
        if generation < deciding(self.generations):
            return Next.GO_ON
        self.open = False
        if not self.lowered:
            self._first_diverged = not sound
        if sound and self._learned:
            return Next.GO_ON
        worse = all(better(self.untrained, one, self.goal) for one in sound)
        if worse and self.lowered < LOWER:
            self.open, self._learned = True, False
            self.lowered += 1
            return Next.LOWER
        if self.lowered and not self._first_diverged:
            self.lowered = 0
            return Next.RETURN
        return Next.GO_ON
