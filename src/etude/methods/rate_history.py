"""The rates of one member of a population, as a schedule that replays them."""

from __future__ import annotations

from dataclasses import dataclass

from etude.recipe import Recipe
from etude.schedules import Schedule, constant, piecewise_constant


@dataclass(frozen=True)
class RateHistory:
    """The rates that a member's weights were trained with, its donors' included.

    rate(t) = lr · s(t) · f_i for b_{i−1} ≤ t < b_i, with the recipe's schedule s and the factors f

    Attributes:
        lr: The rate that the first of its line began with.
        boundaries: The updates at which the rate was moved, ascending.
        factors: What the recipe's schedule was multiplied by, before, between and after them.

    >>> RateHistory(0.1).moved(100, 0.5).moved(200, 2.0)
    RateHistory(lr=0.1, boundaries=(100, 200), factors=(1.0, 0.5, 1.0))
    """

    lr: float
    boundaries: tuple[int, ...] = ()
    factors: tuple[float, ...] = (1.0,)

    def moved(self, step: int, factor: float) -> RateHistory:
        """Return the history of a member that copies this one at a step, and moves the rate."""
        after = self.factors[-1] * factor
        return RateHistory(self.lr, (*self.boundaries, step), (*self.factors, after))

    def schedule(self, base: Schedule) -> Schedule:
        """Return the schedule by which `lr` is multiplied.

        Args:
            base: The recipe's own schedule.

        >>> from etude.schedules import cosine
        >>> RateHistory(0.1).moved(100, 0.5).schedule(cosine())
        cosine() * piecewise_constant((100,), (1.0, 0.5))
        >>> RateHistory(0.1).moved(100, 0.5).schedule(constant())
        piecewise_constant((100,), (1.0, 0.5))
        """
        if not self.boundaries:
            return base
        moves: Schedule = piecewise_constant(self.boundaries, self.factors)
        return moves if base == constant() else base * moves

    def recipe(self, recipe: Recipe) -> Recipe:
        """Return the recipe that trains as this member was trained, from the first update on.

        Args:
            recipe: The recipe of the population.
        """
        return recipe.replace(lr=self.lr, schedule=self.schedule(recipe.schedule))
