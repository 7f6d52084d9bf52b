"""Fine-tuning after compression: the tuner finds the rate, and which schedule it follows.

The candidates are the run's own schedule rewound to where as many updates are left as fine-tuning
has (learning-rate rewinding: Renda, Frankle and Carbin 2020, arXiv:2003.02389), and a constant
rate, whose value the tuner looks for as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from etude.compression.source import TrainedNetwork
from etude.engines import Engine
from etude.errors import BadTypeError, BadValueError, shown
from etude.recipe import Recipe
from etude.schedules import Schedule
from etude.tasks.task import Task
from etude.training.clock import clock_of
from etude.tuning.best_trial import LEAST_SELECTING
from etude.tuning.result import TuneResult
from etude.tuning.tune import BUDGET, tune

SHARE = 0.5
"""The length of fine-tuning where none is given, as a share of the run."""

SHORTEST = 16
"""Updates of the shortest fine-tuning."""

CONSTANT = "constant()"


@dataclass(frozen=True)
class TuningOptions:
    """How fine-tuning is done.

    Attributes:
        budget: In full fine-tuning runs; 0 for no fine-tuning.
        steps: Updates of one fine-tuning run, or a duration such as '5 epochs'; None takes half of
            the run's.
        objective: What is compared, as in `etude.tune`.
        maximize: As there.
        engine: As there.
        device: As there.
        progress: As there.
    """

    budget: float = BUDGET
    steps: int | str | None = None
    objective: str | None = None
    maximize: bool | None = None
    engine: str | Engine | None = None
    device: str | torch.device | None = None
    progress: bool | None = None

    def check(self) -> None:
        """Refuse a budget that cannot choose.

        Raises:
            BadTypeError: If it is no number.
            BadValueError: If it is neither 0 nor enough to compare two schedules.
        """
        if isinstance(self.budget, bool) or not isinstance(self.budget, (int, float)):
            raise BadTypeError(f"budget={shown(self.budget)} is not a number: give runs, such as 3")
        if self.budget != 0 and not self.budget >= LEAST_SELECTING:
            raise BadValueError(
                f"budget={self.budget:g} is out of bounds: give at least {LEAST_SELECTING:g} "
                "fine-tuning runs, to choose a schedule and a rate, or 0 for no fine-tuning"
            )


def fine_tuning_recipe(found: TrainedNetwork, steps: int | str | None) -> Recipe:
    """Return the run's recipe with the length of fine-tuning; the weights are not drawn anew.

    Raises:
        BadValueError: If it is too short.
    """
    whole = clock_of(found.task, found.recipe).horizon
    if steps is None:
        length = max(SHORTEST, round(SHARE * whole))
    else:
        length = clock_of(found.task, found.recipe.replace(steps=steps)).horizon
    if length < SHORTEST:
        raise BadValueError(
            f"steps={steps!r} is {length} updates, and fine-tuning needs at least {SHORTEST}"
        )
    return found.recipe.replace(steps=length, initialisation=None)


def candidate_schedules(found: TrainedNetwork, length: int) -> dict[str, str]:
    """Return the schedules to choose from: what each is, by its text.

    >>> from etude import tasks
    >>> net = TrainedNetwork(tasks.get("digits-mlp"), Recipe(steps=1_000), nn.Identity(), None)
    >>> candidate_schedules(net, 400)
    {'(warmup(50) >> cosine(950)).shift(-600)': 'rewound', 'constant()': 'constant'}
    """
    own: Schedule = found.recipe.schedule
    clock = clock_of(found.task, found.recipe)
    if own.has_feedback:
        # What it heard in the run is not known, so that no value of it can be returned to.
        return {str(own): "anew", CONSTANT: "constant"}
    rewound = own if length >= clock.horizon else own.over(clock).shift(length - clock.horizon)
    return {str(rewound): "rewound", CONSTANT: "constant"}


def fine_tune(
    found: TrainedNetwork, model: nn.Module, recipe: Recipe, options: TuningOptions
) -> TuneResult:
    """Train a compressed network further, at the rate and on the schedule that the tuner finds.

    Args:
        found: The network before it was compressed.
        model: The compressed network; it is copied.
        recipe: The recipe of fine-tuning, of which rate and schedule are looked for.
        options: How.
    """
    length = clock_of(found.task, recipe).horizon
    schedules = list(candidate_schedules(found, length))
    task: Task = replace(found.task, model=model)
    wanted: Mapping[str, Any] = {"schedule": schedules} if len(schedules) > 1 else {}
    return tune(
        task,
        recipe.replace(schedule=schedules[0]),
        options.budget,
        objective=options.objective,
        maximize=options.maximize,
        over=wanted or None,
        engine=options.engine,
        device=options.device,
        progress=options.progress,
    )
