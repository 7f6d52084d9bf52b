"""The folder of a tuning: what was asked, what was found, and how both are read back."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from etude.errors import BadValueError, StorageError, check_real, shown
from etude.randomness import random_state_kept
from etude.recipe import Recipe
from etude.record import Status
from etude.record_shape import refuse_other
from etude.storage.tuning_folder import TuningFolder
from etude.tasks.references.fingerprint import Parts
from etude.tasks.task import Task
from etude.trials.pool import TrialPool
from etude.trials.valid_samples import LEAST, ValidSamples, compared_on, only_at_pauses
from etude.tuning.published import PublishedRule, read_rule
from etude.tuning.recipes.space import Space
from etude.tuning.result import TuneResult
from etude.tuning.result_shape import RequestShape
from etude.tuning.search.allowed_rates import EVERY_RATE, AllowedRates
from etude.tuning.search.ladder import ladder_for

OLDER_LEAST = 8_192
"""The samples to which 'auto' cut a set in tunings that do not say it."""


@dataclass(frozen=True)
class Request:
    """What was asked for: all that decides the answer."""

    recipe: Recipe
    budget: float
    objective: str = "loss"
    maximize: bool | None = None
    folds: int = 1
    space: Space | None = None
    valid_samples: ValidSamples = "auto"
    rates: AllowedRates = EVERY_RATE
    start_from: PublishedRule | None = None
    seeds: int = 1
    least: int = LEAST
    """The samples to which `valid_samples="auto"` cuts a set at least."""
    earlier: tuple[float, ...] = ()
    """The budgets to which it was finished before, ascending: its folder has their trials."""

    @property
    def budgets(self) -> tuple[float, ...]:
        """Those, and the budget that is asked for now."""
        return (*self.earlier, self.budget)

    def compared_on(self, task: Task, recipe: Recipe) -> Task:
        """Return a task with the validation samples on which trials of it are compared."""
        others = [] if self.space is None else self.space.listening()
        return compared_on(task, recipe, self.valid_samples, others, self.least)

    def at_pauses(self, task: Task, recipe: Recipe) -> bool:
        """Return whether trials of a task are evaluated at their pauses alone."""
        cut = self.valid_samples == "auto" and self.compared_on(task, recipe) is not task
        return cut and only_at_pauses(task, recipe, self.least)

    def plain(self, task: str) -> dict[str, Any]:
        """Return it as values that JSON can hold."""
        return {
            "task": task,
            "recipe": self.recipe.plain(),
            "budget": self.budget,
            "objective": self.objective,
            "maximize": self.maximize,
            "folds": self.folds,
            "over": None if self.space is None else self.space.plain(),
            "valid_samples": self.valid_samples,
            "least_valid_samples": self.least,
            "seeds": self.seeds,
            **self.rates.plain(),
            **({} if self.start_from is None else {"start_from": repr(self.start_from)}),
        }


def claim(home: TuningFolder, task: Task, parts: Parts, request: Request) -> None:
    """Write what is asked into a folder that holds no run yet.

    Raises:
        StorageError: If it holds one.
    """
    home.claim(request.plain(task.name), parts, task.ref)


def larger(kept: Request, budget: float | None, home: TuningFolder) -> Request:
    """Return what was asked of a kept tuning, with a larger budget if one is given.

    Raises:
        BadValueError: If it is smaller, or no budget.
    """
    if budget is None:
        return kept
    ladder_for(budget, kept.folds)
    if budget < kept.budget:
        raise BadValueError(
            f"budget={budget:g}: the tuning in {str(home.path)!r} has a budget of "
            f"{kept.budget:g} full runs: give more, or leave it out"
        )
    if budget == kept.budget:
        return kept
    done = (kept.budget,) if "result" in home.table() else ()
    return replace(kept, budget=float(budget), earlier=(*kept.earlier, *done))


def grown(kept: Request, budget: float | None, more: float | None) -> float | None:
    """Return the budget that is asked for: the given one, or so many full runs more.

    Raises:
        BadTypeError: If `more` is not a number.
        BadValueError: If both are given, or `more` is not above 0.
    """
    if more is None:
        return budget
    if budget is not None:
        raise BadValueError("budget and more both say what the tuning may cost: give one of them")
    runs = check_real("more", more, "full runs above 0, such as 2.0")
    if not 0 < runs < math.inf:
        raise BadValueError(f"more={runs:g} is out of bounds: give full runs above 0, such as 2.0")
    return kept.budget + runs


def refuse_other_question(kept: Request, given: Mapping[str, object]) -> None:
    """Refuse arguments that ask something else than the kept tuning.

    Args:
        kept: What was asked of it.
        given: Arguments by the name of their attribute; None for one that was not given.

    Raises:
        BadValueError: If one differs.
    """
    for name, value in given.items():
        own = getattr(kept, name)
        plain, ours = (one.plain() if isinstance(one, Space) else one for one in (value, own))
        if value is not None and plain != ours:
            raise BadValueError(
                f"{'over' if name == 'space' else name}={shown(plain)}: the tuning in the folder "
                f"has {shown(ours)}: leave it out to go on, or begin another tuning in a new folder"
            )


def check_task(home: TuningFolder, task: Task, parts: Parts, *, accept: bool) -> None:
    """Refuse another task than the tuning's; an older folder cannot tell."""
    home.check_task(parts, accept=accept)
    if task.ref is not None:
        home.run.task.write(task.ref)


def kept_request(home: TuningFolder, recipe: Recipe | None) -> Request:
    """Return what was asked of the tuning in a folder."""
    if not home.begun:
        raise StorageError(
            f"{str(home.path)!r} holds no tuning to resume: there is no {home.file.name} in it. If "
            "one was stopped there before it began, nothing is lost: begin it anew in the same "
            "folder"
        )
    try:
        plain = home.table()["request"]
        refuse_other(plain, RequestShape)
        base, over = Recipe(**plain["recipe"]), plain.get("over")
        kept = Request(
            base,
            float(plain["budget"]),
            plain.get("objective", "loss"),
            plain.get("maximize"),
            plain.get("folds", 1),
            None if over is None else Space.from_plain(base, over),
            plain.get("valid_samples", "all"),
            AllowedRates.of(plain.get("lr_range"), plain.get("lrs")),
            read_rule(plain["start_from"]) if plain.get("start_from") else None,
            plain.get("seeds", 1),
            plain.get("least_valid_samples", OLDER_LEAST),
            tuple(float(done["budget"]) for done in home.earlier()),
        )
        for budget in kept.budgets:
            ladder_for(budget, kept.folds)
    except (KeyError, TypeError, ValueError, AttributeError, StorageError) as error:
        raise StorageError(
            f"the tuning {str(home.file)!r} is damaged: {type(error).__name__}: {error}"
        ) from error
    if recipe is not None and recipe != kept.recipe:
        raise StorageError(
            f"{str(home.path)!r} holds a tuning of another recipe: leave the recipe out to go on"
        )
    return kept


def finished(home: TuningFolder, task: Task) -> TuneResult | None:
    """Return the findings of a tuning that had come to its end, with its model if it is there."""
    if "result" not in home.table():
        return None
    found = TuneResult.load(home.path)
    if not home.run.has_model:
        if found.record.status == Status.FINISHED:
            warnings.warn(
                f"{str(home.path)!r} has lost the trained weights of its tuning: the result has "
                "no model. To train it anew, train its recipe in another folder",
                stacklevel=4,
            )
        return found
    with random_state_kept():
        model = task.build()
    home.run.read_model(model)
    return replace(found, model=model)


def save(result: TuneResult, fields: Sequence[TrialPool], home: TuningFolder) -> None:
    """Write the findings; the paused states have served and go."""
    result.save(home.path)
    for pool in fields:
        for trial in pool.trials:
            trial.finish()
