"""`diagnose`: trains a task once under watch, says what is wrong, and can try what mends it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from etude.diagnosis.finding import Diagnosis
from etude.diagnosis.overfitting import overfitting
from etude.diagnosis.remedies import Repair, repair
from etude.diagnosis.suspects import suspects
from etude.diagnosis.watch import watch
from etude.engines import Engine
from etude.progress import bar
from etude.recipe import Recipe
from etude.record import Record
from etude.tasks.task import Task
from etude.training.request import AdvanceRequest
from etude.training.run import Run
from etude.training.state import RunState
from etude.training.validation import check_given
from etude.warning_filters import filters_kept


@dataclass(frozen=True)
class TaskDiagnosis(Diagnosis):
    """What was found in a run of a task, and what mends it.

    Attributes:
        record: The run that was watched.
        repair: What trying remedies has shown; None if none was tried.
    """

    record: Record | None = field(default=None, repr=False)
    repair: Repair | None = None

    def __str__(self) -> str:
        told = super().__str__()
        return told if self.repair is None else f"{told}\n{self.repair}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values for JSON, without the history."""
        mended = None if self.repair is None else self.repair.to_dict()
        return {**super().to_dict(), "repair": mended}


@filters_kept()
def diagnose(
    task: Task,
    recipe: Recipe | None = None,
    *,
    repair: bool = False,
    budget: float = 4.0,
    engine: str | Engine | None = None,
    device: str | torch.device | None = None,
    progress: bool | None = None,
) -> TaskDiagnosis:
    """Train a task by a recipe, watch the run, and say what is wrong with it.

    The run is the one that `etude.train` makes, to the bit. A symptom is what is seen, such as
    units that never fire; it can have several causes. With `repair`, the remedies of all suspected
    causes are tried against the unchanged run; see `etude.repair`. If the run is healthy, nothing
    is tried.

    Args:
        task: What is learned. Neither it nor its model changes.
        recipe: How; None takes the task's defaults.
        repair: Whether to try remedies.
        budget: For the remedies, in full runs; the run that is watched is not part of it.
        engine: As in `tune`, for the remedies.
        device: As in `train`.
        progress: Whether to show progress; None does so on a terminal.

    Raises:
        TaskError: If model, data and loss do not fit together.
        BadValueError: If a value of the recipe does not fit the task, or the budget is too small.

    >>> from torch import nn
    >>> x = torch.linspace(-1, 1, 128)[:, None]
    >>> task = Task(lambda: nn.Linear(1, 1), (x, 3 * x), loss=nn.functional.mse_loss)
    >>> print(diagnose(task, Recipe(lr=0.1, steps=100, batch_size=16), progress=False))
    healthy
    """
    check_given(task, recipe)
    recipe = recipe or Recipe(**task.defaults)
    run = Run(task, recipe, device=device)
    run.check()
    found = _watched(run, progress)
    findings = (*found.findings, *overfitting(run.record(), task))
    causes = suspects(findings)
    tried = None
    if repair and causes:
        tried = _repair(
            task, recipe, causes, budget=budget, engine=engine, device=device, progress=progress
        )
    run.release()
    return TaskDiagnosis(findings, found.seen, found.unseen, found.history, run.record(), tried)


_repair = repair
"""The function; `diagnose` has an argument of that name."""


def _watched(run: Run, progress: bool | None) -> Diagnosis:
    """Train a run to its end under watch; return what was found."""
    with bar(progress, f"{run.task.name}: watched run") as show:

        def on_step(state: RunState, step: int) -> None:
            show(step, state.length, "")

        request = AdvanceRequest(
            evaluation_steps=run.state.evenly_spaced(run.recipe.evaluations), on_step=on_step
        )
        with watch(run.model, run.optimizer, on_finding=lambda finding: None) as watching:
            run.advance(request)
    return watching.report()
