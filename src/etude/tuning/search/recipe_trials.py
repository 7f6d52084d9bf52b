"""The trials of one recipe: all trials of one recipe but for the rate, as the search sees them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from etude.optimizers.prior import lowest_rate
from etude.recipe import Recipe
from etude.training.clock import clock_of
from etude.trials.curve import Exposure
from etude.trials.guess import Guess, NewTrial
from etude.trials.phase import Phase
from etude.trials.pool import TrialPool
from etude.trials.trial import Trial


class RecipeTrials:
    """The trials of a pool that differ from a recipe in their rate alone.

    Args:
        pool: Where they are trained and paid for.
        recipe: What they share; its rate does not matter.
        name: What their folders' names begin with.
    """

    def __init__(self, pool: TrialPool, recipe: Recipe, name: str = "") -> None:
        self.pool, self.recipe, self.name = pool, recipe, name
        self.key = recipe.replace(lr=1.0).digest
        clock = clock_of(pool.tasks[0], recipe)
        self.length = clock.horizon
        self.exposure = Exposure.over(recipe.schedule.over(clock), self.length)

    @property
    def untrained_score(self) -> float:
        """The score before training."""
        return self.pool.untrained_score

    @property
    def untrained_loss(self) -> float:
        """The magnitude of the loss before training."""
        return self.pool.untrained_loss

    @property
    def lowest(self) -> float:
        """The rate below which none is tried: the weights' precision sees no difference."""
        return lowest_rate(self.pool.first.parameters)

    @property
    def hopeless(self) -> bool:
        """Whether all that came to some update broke there, for another cause than the rate."""
        return bool(self.pool.verdict_of_break(self.trials())[1])

    @property
    def left(self) -> float:
        """What may still be spent, in full runs."""
        return self.pool.left

    def enter(self, lr: float) -> Trial:
        """Enter a rate, or return the trial that is there."""
        return self.pool.add(*self._at(lr))

    def _at(self, lr: float) -> NewTrial:
        """Return the recipe at a rate, and the name of its trial."""
        told = f"{lr:g}" if float(f"{lr:g}") == lr else repr(lr)
        name = f"{self.name}-lr-{told}" if self.name else f"lr-{told}"
        return self.recipe.replace(lr=lr), name

    def trials(self) -> list[Trial]:
        """Return the trials of this recipe, as they entered."""
        return [c for c in self.pool.trials if c.recipe_key == self.key]

    def go(
        self,
        trials: Sequence[Trial],
        share: float,
        phase: Phase,
        ahead: Sequence[Trial] = (),
        guess: Guess[Trial, float] | None = None,
    ) -> None:
        """Take some to a share of their runs, and pay for it; see `TrialPool.go`."""
        told = None
        if guess is not None:
            told = Guess(guess.further, tuple(self._at(lr) for lr in guess.new))
        self.pool.go(trials, share, phase, ahead, told)

    def price(self, trial: Trial, share: float) -> float:
        """Return the cost of taking one to a share of its run."""
        return self.pool.price(trial, share)

    def fresh(self, share: float) -> float:
        """Return the cost of taking a new one to a share of its run."""
        updates = math.floor(self.length * share + 1e-9) * len(self.pool.tasks)
        return float(updates * self.pool.weight(self.recipe) / self.pool.unit)
