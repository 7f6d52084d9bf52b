"""The tied range of an earlier tuning of the same task and recipe."""

from __future__ import annotations

from pathlib import Path

from etude.diagnosis.health.rate_said import Tied
from etude.errors import StorageError
from etude.recipe import Recipe
from etude.storage.tuning_folder import TuningFolder
from etude.tasks.references.fingerprint import fingerprint
from etude.tasks.task import Task
from etude.tuning.outcome import Outcome
from etude.tuning.result import TuneResult


def tied_in(folder: str | Path, task: Task, recipe: Recipe) -> Tied | None:
    """Return the tied range of a tuning, if it was one of this task and recipe.

    The recipe may have another rate or seed than the tuned one. None where the folder holds no
    finished tuning, nothing trained in it, or task or recipe differ in anything else: its range is
    then no statement on this run.

    Args:
        folder: The folder of the tuning.
        task: The task.
        recipe: The recipe.
    """
    home = TuningFolder(Path(folder))
    if not home.begun:
        return None
    try:
        result = TuneResult.load(folder)
        home.check_task(fingerprint(task), accept=False)
    except StorageError:
        return None
    tuned = result.recipe
    same = recipe.replace(lr=tuned.lr, seed=tuned.seed).digest == tuned.digest
    return result.tied if same and result.outcome != Outcome.NOTHING_TRAINS else None
