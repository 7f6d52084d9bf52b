"""An arm: all candidates of one recipe but for the rate, as the search sees them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from etude.optimizers.prior import lowest_rate
from etude.recipe import Recipe
from etude.training.clock import clock_of
from etude.trials.curve import Exposure
from etude.trials.phase import Phase
from etude.trials.pool import TrialPool
from etude.trials.trial import Trial


class RecipeTrials:
    """The candidates of a field that differ from a recipe in their rate alone.

    Args:
        field: Where they are trained and paid for.
        recipe: What they share; its rate does not matter.
        name: What their folders' names begin with.
    """

    def __init__(self, field: TrialPool, recipe: Recipe, name: str = "") -> None:
        self.field, self.recipe, self.name = field, recipe, name
        self.key = recipe.replace(lr=1.0).digest
        clock = clock_of(field.tasks[0], recipe)
        self.length = clock.horizon
        self.exposure = Exposure.over(recipe.schedule.over(clock), self.length)

    @property
    def untrained_score(self) -> float:
        """The score before training."""
        return self.field.untrained_score

    @property
    def untrained_loss(self) -> float:
        """The magnitude of the loss before training."""
        return self.field.untrained_loss

    @property
    def lowest(self) -> float:
        """The rate below which none is tried: the weights' precision sees no difference."""
        return lowest_rate(self.field.first.parameters)

    @property
    def hopeless(self) -> bool:
        """Whether all that came to some update broke there, for another cause than the rate."""
        return bool(self.field.verdict_of_break(self.entrants())[1])

    @property
    def left(self) -> float:
        """What may still be spent, in full runs."""
        return self.field.left

    def enter(self, lr: float) -> Trial:
        """Enter a rate, or return the candidate that is there."""
        name = f"{self.name}-lr-{lr:g}" if self.name else f"lr-{lr:g}"
        return self.field.add(self.recipe.replace(lr=lr), name)

    def entrants(self) -> list[Trial]:
        """Return the candidates of this arm, as they entered."""
        return [c for c in self.field.candidates if c.arm == self.key]

    def go(self, entrants: Sequence[Trial], share: float, phase: Phase) -> None:
        """Take some to a share of their runs, and pay for it."""
        self.field.go(entrants, share, phase)

    def price(self, entrant: Trial, share: float) -> float:
        """Return the cost of taking one to a share of its run."""
        return self.field.price(entrant, share)

    def fresh(self, share: float) -> float:
        """Return the cost of taking a new one to a share of its run."""
        updates = math.floor(self.length * share + 1e-9) * len(self.field.tasks)
        return float(updates * self.field.weight(self.recipe) / self.field.unit)
