"""The selector: whole recipes, sampled, halved, the best one's rate refined."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from etude.errors import BadValueError, MissingExtraError
from etude.optimizers.prior import centre_of
from etude.recipe import Recipe
from etude.tasks.task import Task
from etude.trials.phase import Phase
from etude.trials.pool import TrialPool
from etude.trials.trial import Trial, step_at
from etude.tuning.recipes.selection import HORIZONS, Selection, Tried
from etude.tuning.recipes.space import Space, rate_free
from etude.tuning.search.allowed_rates import EVERY_RATE, AllowedRates
from etude.tuning.search.ladder import SPACING
from etude.tuning.search.recipe_trials import RecipeTrials
from etude.warning_filters import logger_kept

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study

SHARES = (0.5, 0.25, 0.25)
"""Of what is left beside the finish, spent up to each horizon."""

WIDTH, NARROW = 1.0, 0.3
"""Decades around the prior's centre from which rates are drawn; for one that sizes its step."""

FEWEST = 8
"""Updates below which a recipe cannot be looked at after an eighth of them."""

TOGETHER = 2
"""Recipes that the sampler proposes before it hears how they did."""


class RecipeSelector:
    """Chooses a recipe from a space, the rate included, within what a pool may spend.

    Half of what the finish leaves goes to as many recipes as that pays up to an eighth of their
    runs, a quarter each to the best of them up to a quarter and a half (successive halving,
    Jamieson and Talwalkar 2016, arXiv:1502.07943). Where all combinations fit, each is tried at
    the prior's rate, then at its neighbours; else Optuna's TPE proposes them.

    Args:
        task: What is learned, for the prior.
        pool: Where they are trained and paid for.
        space: What to choose from.
        seed: Of the sampler.
        allowed: The rates that may be tried.
    """

    def __init__(
        self,
        task: Task,
        pool: TrialPool,
        space: Space,
        seed: int,
        allowed: AllowedRates = EVERY_RATE,
    ) -> None:
        self.allowed = allowed
        self.task, self.pool, self.space, self.seed = task, pool, space, seed
        self.by_recipe: dict[str, tuple[RecipeTrials, dict[str, Any]]] = {}

    def run(self, reserve: float) -> tuple[RecipeTrials, Selection]:
        """Return the trials of the best recipe, taken to the last horizon, and what was tried.

        Args:
            reserve: Full runs to leave for what comes after.
        """
        spare = (self.pool.left - reserve) / len(self.pool.tasks)
        count = max(2, int(SHARES[0] * spare / HORIZONS[0] + 1e-9))
        entered = self.grid(count) if self.space.size() <= count else self.sampled(count)
        below = HORIZONS[0]
        for share, part in zip(HORIZONS[1:], SHARES[1:], strict=True):
            ranked = self.ranked(entered, below)
            keep = max(1, int(part * spare / (share - below) + 1e-9))
            self.go(ranked[:keep], share)
            below = share
        sound = [one for one in entered if not one.diverged]
        standing = (self.ranked(sound, share) for share in reversed(HORIZONS))
        best = next(filter(None, standing), entered)[0]
        recipe_trials, values = self.by_recipe[best.recipe_key]
        return recipe_trials, Selection(values, self.tried(entered), held(entered))

    def go(self, entered: Sequence[Trial], share: float) -> None:
        """Take the recipes to a horizon."""
        self.pool.go(list(dict.fromkeys(entered)), share, Phase.RECIPE_RUNG)

    def enter(self, values: dict[str, Any], offset: float) -> Trial:
        """Enter a recipe at some decades from its prior's centre."""
        recipe = self.sized(self.space.recipe(values))
        recipe_trials = RecipeTrials(self.pool, recipe, f"recipe-{len(self.by_recipe) + 1}")
        recipe_trials, _ = self.by_recipe.setdefault(recipe_trials.key, (recipe_trials, values))
        wanted = self.allowed.nearest(10 ** (self.centre(recipe) + offset))
        assert wanted is not None  # some rate is allowed, and none is excluded here
        return recipe_trials.enter(self.allowed.rounded(wanted))

    def sized(self, recipe: Recipe) -> Recipe:
        """Return a recipe that sees as many samples as the base, whatever its batches.

        Raises:
            BadValueError: If that is too few batches to compare it.
        """
        own = self.pool.weight(recipe)
        if own == self.pool.weight(self.pool.recipe):
            return recipe
        steps = self.pool.unit // own
        if steps < FEWEST:
            raise BadValueError(
                f"batches of {own:,} samples are only {steps} updates of the {self.pool.unit:,} "
                f"samples that every recipe sees: at least {FEWEST} are needed; give smaller "
                "batches, or a longer recipe"
            )
        return recipe.replace(steps=steps)

    def check(self) -> None:
        """Refuse batches that are too large for the length, before anything is trained.

        Raises:
            BadValueError: With the updates that would be left.
        """
        names = [n for n in ("batch_size", "accumulate") if n in self.space.choices]
        for values in product(*(self.space.choices[name] for name in names)):
            self.sized(self.space.recipe(dict(zip(names, values, strict=True))))

    def centre(self, recipe: Recipe) -> float:
        """Return log10 of the rate that a recipe begins at."""
        return centre_of(self.pool.first.model, self.task.train.targets(), recipe.optimizer)

    def grid(self, count: int) -> list[Trial]:
        """Try every combination, at the centre first and then beside it."""
        combined = list(self.space.all())
        offsets = (0.0, -SPACING, SPACING, -2 * SPACING, 2 * SPACING)
        rounds = min(len(offsets), count // len(combined))
        pairs = [(values, offset) for offset in offsets[:rounds] for values in combined]
        tried = [self.enter(v, o if not self.free(v) else o / 4) for v, o in pairs]
        entered = list(dict.fromkeys(tried))  # beside a bound, two may be one
        self.go(entered, HORIZONS[0])
        return entered

    def free(self, values: dict[str, Any]) -> bool:
        """Whether a combination's optimizer sizes its own step."""
        return rate_free(self.space.recipe(values))

    def sampled(self, count: int) -> list[Trial]:
        """Try what Optuna's TPE proposes, two at a time."""
        study = _study(self.seed, count)
        spread = _distributions(self.space)
        entered: list[Trial] = []
        while len(entered) < count:
            trials = [study.ask(spread) for _ in range(min(TOGETHER, count - len(entered)))]
            chosen = []
            for trial in trials:
                values = {name: _value(self.space, name, trial.params[name]) for name in spread}
                offset = values.pop(OFFSET)
                scale = NARROW if self.free(values) else WIDTH
                chosen.append(self.enter(values, scale * offset))
            self.go(chosen, HORIZONS[0])
            for trial, one in zip(trials, chosen, strict=True):
                score = one.score(step_at(one, HORIZONS[0]))
                study.tell(trial, score if math.isfinite(score) else self.worse(entered))
            entered += chosen
        return list(dict.fromkeys(entered))

    def worse(self, entered: Sequence[Trial]) -> float:
        """Return a score that is worse than the untrained one and all that were seen."""
        seen = [one.score(step_at(one, HORIZONS[0])) for one in entered]
        known = [s for s in (self.pool.untrained_score, *seen) if math.isfinite(s)]
        return max((s + abs(s) for s in known), default=0.0) + 1

    def ranked(self, entered: Sequence[Trial], share: float) -> list[Trial]:
        """Return those that stand soundly at a horizon, best first."""
        scores = {c.name: c.score(step_at(c, share)) for c in entered if c.share >= share - 1e-3}
        sound = [c for c in entered if math.isfinite(scores.get(c.name, math.inf))]
        return sorted(sound, key=lambda c: (scores[c.name], c.lr))

    def tried(self, entered: Sequence[Trial]) -> tuple[Tried, ...]:
        """Return what became of each, the furthest and best first."""
        rows = []
        for one in entered:
            scores = [one.score(step_at(one, s)) for s in HORIZONS if one.share >= s - 1e-3]
            rows.append(Tried(self.by_recipe[one.recipe_key][1], one.lr, tuple(scores)))
        return tuple(sorted(rows, key=lambda row: (-len(row.scores), row.scores[-1:])))


OFFSET = "log10 lr"


def held(entered: Sequence[Trial]) -> float | None:
    """Return Kendall's tau-b between the orders at the first and the second horizon.

    It is None for fewer than three, and where all have one score: then there is no order.
    """
    from scipy.stats import kendalltau  # here, since loading it takes longer than choosing

    both = [c for c in entered if c.share >= HORIZONS[1] - 1e-3 and not c.diverged]
    if len(both) < 3:
        return None
    early, late = ([c.score(step_at(c, share)) for c in both] for share in HORIZONS[:2])
    found = float(kendalltau(early, late).statistic)
    return found if math.isfinite(found) else None


def _study(seed: int, count: int) -> Study:
    optuna = _optuna()
    sampler = optuna.samplers.TPESampler(
        seed=seed, multivariate=True, constant_liar=True, n_startup_trials=max(4, count // 3)
    )
    with logger_kept("optuna", logging.WARNING):  # it would announce every study
        study: Study = optuna.create_study(direction="minimize", sampler=sampler)
    return study


def _distributions(space: Space) -> dict[str, BaseDistribution]:
    kinds = _optuna().distributions
    spread: dict[str, BaseDistribution] = {OFFSET: kinds.FloatDistribution(-1.0, 1.0)}
    for name, values in space.choices.items():
        spread[name] = kinds.CategoricalDistribution(list(range(len(values))))
    for name, (low, high) in space.ranges.items():
        spread[name] = kinds.FloatDistribution(low, high, log=True)
    return spread


def _value(space: Space, name: str, given: Any) -> Any:
    """Return the value that the sampler's number stands for."""
    return space.choices[name][given] if name in space.choices else float(f"{given:.4g}")


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise MissingExtraError(
            "over= holds more recipes than the budget can try one by one, and proposing them "
            "needs optuna: pip install 'etude[search]'"
        ) from error
    return optuna
