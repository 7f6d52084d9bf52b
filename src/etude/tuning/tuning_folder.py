"""The folder of a tuning: what was asked, what was found, and how both are read back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from etude import files
from etude.errors import BadValueError, StorageError
from etude.randomness import random_state_kept
from etude.recipe import Recipe
from etude.record_shape import refuse_other
from etude.storage import task_digests as sameness
from etude.storage.run_folder import MODEL, TUNING, read_model
from etude.tasks.fingerprint import fingerprint
from etude.tasks.task import Task
from etude.trials.pool import TrialPool
from etude.tuning.recipes.space import Space
from etude.tuning.result import TuneResult
from etude.tuning.result_shape import RequestShape
from etude.tuning.search.ladder import ladder_for


@dataclass(frozen=True)
class Request:
    """What was asked for: all that decides the answer."""

    recipe: Recipe
    budget: float
    objective: str = "loss"
    maximize: bool | None = None
    folds: int = 1
    space: Space | None = None

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
        }


def claim(home: Path, task: Task, request: Request) -> None:
    """Write what is asked into a folder that holds no run yet.

    Raises:
        StorageError: If it holds one.
    """
    files.make_folder(home)
    if (home / TUNING).exists() or (home / "recipe.toml").exists():
        raise StorageError(
            f"{str(home)!r} already holds a run: resume it, or choose another folder"
        )
    parts = fingerprint(task)
    files.write_json(home / TUNING, {"request": request.plain(task.name), "parts": parts})


def larger(kept: Request, budget: float | None, home: Path) -> Request:
    """Return what was asked of a kept tuning, with a larger budget if one is given.

    Raises:
        BadValueError: If it is smaller, or no budget.
    """
    if budget is None:
        return kept
    ladder_for(budget, kept.folds)
    if budget < kept.budget:
        raise BadValueError(
            f"budget={budget:g}: the tuning in {str(home)!r} has a budget of {kept.budget:g} full "
            "runs: give more, or leave it out"
        )
    return replace(kept, budget=float(budget))


def reopen(home: Path, task: Task, request: Request) -> None:
    """Note a larger budget; what was found with the smaller one is kept beside it."""
    table = files.read_table(home / TUNING, "the tuning")
    plain = request.plain(task.name)
    if table["request"] == plain:
        return
    earlier = [*_list(table, "earlier"), *([table["result"]] if "result" in table else [])]
    kept = {name: value for name, value in table.items() if name != "result"}
    files.write_json(home / TUNING, {**kept, "request": plain, "earlier": earlier})


def _list(table: dict[str, Any], name: str) -> list[Any]:
    """Return a list of a table that may come from a stranger; empty if it is none."""
    found = table.get(name)
    return found if isinstance(found, list) else []


def check_task(home: Path, task: Task, *, accept: bool) -> None:
    """Refuse another task than the tuning's; an older folder cannot tell."""
    path = home / TUNING
    table = files.read_table(path, "the tuning")
    now = fingerprint(task)
    kept = sameness.read_parts(table.get("parts", {}), path)
    found = sameness.refuse_changed(home, kept, now, accept=accept)
    if found:
        notes = [*_list(table, "accepted"), {"parts": found}]
        files.write_json(path, {**table, "parts": now, "accepted": notes})


def kept_request(home: Path, recipe: Recipe | None) -> Request:
    """Return what was asked of the tuning in a folder."""
    if not (home / TUNING).exists():
        raise StorageError(
            f"{str(home)!r} holds no tuning to resume: there is no {TUNING} in it. If one was "
            "stopped there before it began, nothing is lost: begin it anew in the same folder"
        )
    try:
        plain = files.read_table(home / TUNING, "the tuning")["request"]
        refuse_other(plain, RequestShape)
        base, over = Recipe(**plain["recipe"]), plain.get("over")
        kept = Request(
            base,
            float(plain["budget"]),
            plain.get("objective", "loss"),
            plain.get("maximize"),
            plain.get("folds", 1),
            None if over is None else Space.from_plain(base, over),
        )
    except (KeyError, TypeError, ValueError, AttributeError, StorageError) as error:
        raise StorageError(
            f"the tuning {str(home / TUNING)!r} is damaged: {type(error).__name__}: {error}"
        ) from error
    if recipe is not None and recipe != kept.recipe:
        raise StorageError(
            f"{str(home)!r} holds a tuning of another recipe: leave the recipe out to go on"
        )
    return kept


def finished(home: Path, task: Task) -> TuneResult | None:
    """Return the findings of a tuning that had come to its end, with its model."""
    if "result" not in files.read_table(home / TUNING, "the tuning"):
        return None
    with random_state_kept():
        model = task.build()
    if (home / MODEL).exists():
        read_model(model, home)
    return replace(TuneResult.load(home), model=model)


def save(result: TuneResult, fields: Sequence[TrialPool], home: Path) -> None:
    """Write the findings; the paused states have served and go."""
    result.save(home)
    for field in fields:
        for candidate in field.candidates:
            candidate.finish()
