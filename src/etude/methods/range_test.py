"""`range_test`: raises the rate over a short run, and reads a rate off the training loss."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch

from etude import optimizers
from etude.errors import BadValueError, TaskError, check_whole, unknown_name
from etude.methods.ramp import Ramp, run_ramp
from etude.methods.ramp_rules import RULES, TUNER, RampRule
from etude.progress import bar
from etude.recipe import Recipe
from etude.record import to_json
from etude.shows_itself import ShowsItself
from etude.tasks.task import Task
from etude.training.checks.validation import check_given
from etude.training.clock import clock_of
from etude.warning_filters import filters_kept

SHORTEST = 30
"""The smallest number of updates of a ramp: the rules leave out up to fifteen."""

APART = 3.0
"""Suggestions that are further apart than this factor disagree."""


@dataclass(frozen=True, eq=False)
class RangeTest(ShowsItself):
    """What a range test shows.

    Attributes:
        task: The name of the task.
        recipe: The recipe, with the rate that is suggested if there is one.
        rule: The rule that was asked for.
        updates: The number of updates for which a ramp was planned.
        ramps: The ramps, one for each seed.
        suggestions: For every rule that reads this ramp, the rate it suggests for each ramp; None
            where it finds none.
        cost: The cost of the ramps, in full runs of the recipe.
    """

    task: str
    recipe: Recipe
    rule: RampRule
    updates: int
    ramps: tuple[Ramp, ...]
    suggestions: Mapping[str, tuple[float | None, ...]]
    cost: float

    @property
    def found(self) -> tuple[float, ...]:
        """The rates that the rule suggests, ascending."""
        return tuple(sorted(lr for lr in self.suggestions[self.rule.name] if lr is not None))

    @property
    def lr(self) -> float | None:
        """The median of the suggestions; None unless most of the ramps gave one."""
        return self.median(self.rule.name)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The lowest and the highest suggestion; None with fewer than two."""
        return (self.found[0], self.found[-1]) if len(self.found) > 1 else None

    def median(self, rule: str) -> float | None:
        """Return the median of a rule's suggestions, by log rate; None where most ramps gave none.

        Args:
            rule: One of the names in `suggestions`.
        """
        found = [lr for lr in self.suggestions[rule] if lr is not None]
        if 2 * len(found) <= len(self.suggestions[rule]):
            return None
        low, high = statistics.median_low(found), statistics.median_high(found)
        return low if low == high else math.sqrt(low * high)

    def advice(self) -> str:
        """Return what the suggestion is worth, in sentences."""
        parts = [self._on_ramps(), self._on_rule()]
        return " ".join(part for part in parts if part)

    def _on_ramps(self) -> str:
        count, found = len(self.ramps), len(self.found)
        ended = next((ramp for ramp in self.ramps if ramp.cause), None)
        if ended is not None:
            return (
                f"The ramp of seed {ended.seed} ends at update {len(ended.losses)}, and the rate "
                f"is not the cause: {ended.cause}. Look at that data, and at what model and loss "
                "make of it."
            )
        if self.lr is None:
            return (
                f"The rule {self.rule.name!r} suggests a rate in {found} of {count} ramps: there "
                "is no answer. Look at the curves, or tune the rate."
            )
        if count == 1:
            return "One ramp does not show how far the suggestion depends on the seed."
        low, high = self.found[0], self.found[-1]
        said = f"{count} ramps with other seeds suggest {low:.3g} to {high:.3g}."
        if high > APART * low:
            said += f" That is a factor of {high / low:.2g}: the curve does not decide the rate."
        return said

    def _on_rule(self) -> str:
        missed = self.rule.missed
        if missed is None:
            return f"The rule {self.rule.name!r} is not part of the benchmark of range tests."
        return (
            f"On 28 tasks the rule {self.rule.name!r} and a full run at its rate missed "
            f"{missed.median:.1%} of the attainable drop in loss in the median, and "
            f"{missed.worst:.0%} at worst; tuning with a budget of 1.3 runs missed "
            f"{TUNER.median:.1%}, and {TUNER.worst:.0%} at worst."
        )

    def plain(self) -> dict[str, Any]:
        """Return the result as plain values for JSON."""
        return {
            "task": self.task,
            "rule": self.rule.name,
            "lr": self.lr,
            "interval": None if self.interval is None else list(self.interval),
            "suggestions": {name: list(found) for name, found in self.suggestions.items()},
            "updates": self.updates,
            "cost": self.cost,
            "advice": self.advice(),
            "recipe": self.recipe.plain(),
            "ramps": [
                {
                    "seed": ramp.seed,
                    "diverged": ramp.diverged,
                    "lrs": list(ramp.lrs),
                    "losses": [to_json(loss) for loss in ramp.losses],
                    "smoothed": [to_json(loss) for loss in ramp.smoothed],
                }
                for ramp in self.ramps
            ],
        }


@filters_kept()
def range_test(
    task: Task,
    recipe: Recipe | None = None,
    *,
    rule: str = "valley",
    updates: int = 100,
    repeats: int = 3,
    device: str | torch.device | None = None,
    progress: bool | None = None,
) -> RangeTest:
    """Raise the rate exponentially over a short run, and read a rate off the training loss.

    The ramp is run several times, each with another seed: the spread of the suggestions shows how
    far to trust them. Ramp, smoothing, stopping and rule are those of the library that has the
    rule: fastai for 'valley', 'slide', 'steep' and 'minimum/10', Lightning for 'lightning',
    pytorch-lr-finder for 'lr-finder'. All parameters keep their multiples of the rate. The task's
    model, and every random state, stay as they were.

    A range test sees the first updates alone. What it missed against a full search is in
    `RangeTest.advice`; `etude.tune` compares rates by whole runs at about the same price.

    Args:
        task: What to learn.
        recipe: How; its rate and schedule are not used. None takes the task's defaults.
        rule: The rule that reads the rate off the ramp.
        updates: The number of updates of a ramp, at least 30.
        repeats: How many ramps are run, from the recipe's seed upward.
        device: Where to train; None takes the model's own device, else an accelerator.
        progress: Whether to draw a bar; None draws it at a terminal.

    Returns:
        The suggested rate with its interval over the ramps, the curves and the cost.

    Raises:
        UnknownNameError: If there is no rule of that name.
        BadValueError: If a number is out of bounds, or the optimizer chooses its own step size.
        TaskError: If model, data and loss do not fit together, or parts of the model take turns.

    >>> from torch.nn.functional import mse_loss
    >>> x = torch.linspace(-1, 1, 64)[:, None]
    >>> task = Task(lambda: torch.nn.Linear(1, 1), (x, 3 * x), loss=mse_loss)
    >>> found = range_test(task, Recipe(optimizer="sgd", batch_size=16, steps=500), progress=False)
    >>> len(found.ramps), found.interval[0] <= found.lr <= found.interval[1], found.cost <= 0.6
    (3, True, True)
    """
    check_given(task, recipe)
    recipe = recipe or Recipe(**task.defaults)
    updates = check_whole("updates", updates, SHORTEST)
    repeats = check_whole("repeats", repeats, 1)
    chosen = _checked(task, recipe, rule)
    ramps = []
    with bar(progress, task.name) as show:
        for seed in range(recipe.seed, recipe.seed + repeats):
            again = recipe.replace(seed=seed)
            ramps.append(run_ramp(task, again, chosen.plan, updates, device=device, show=show))
    rules = [one for one in RULES.values() if one.plan == chosen.plan]
    suggestions = {one.name: tuple(one.suggest(ramp, updates) for ramp in ramps) for one in rules}
    spent = sum(len(ramp.losses) + ramp.diverged for ramp in ramps)
    found = RangeTest(
        task.name,
        recipe,
        chosen,
        updates,
        tuple(ramps),
        MappingProxyType(suggestions),
        spent / clock_of(task, recipe).horizon,
    )
    return found if found.lr is None else replace(found, recipe=recipe.replace(lr=found.lr))


def _checked(task: Task, recipe: Recipe, rule: str) -> RampRule:
    if rule not in RULES:
        raise unknown_name("rule", rule, RULES)
    if task.alternates:
        raise TaskError(
            "parts of the model take turns, and their losses do not tell which rate is good: tune "
            "the rate, which compares whole runs by the metric"
        )
    if optimizers.get(recipe.optimizer.name).rate_free:
        raise BadValueError(
            f"optimizer={recipe.optimizer.name!r} chooses the size of its steps itself, so that a "
            "ramp of the rate shows nothing: give an optimizer that takes a rate"
        )
    return RULES[rule]
