"""The state of a run: its model, its optimizer, its position in the data, its results so far."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from etude import optimizers
from etude.layerwise.preparation import prepare
from etude.layerwise.rates import Rates, rates_of
from etude.optimizers.factory import build
from etude.optimizers.row import OptimizerRow
from etude.randomness import derive_seed, random_state_kept
from etude.recipe import Recipe
from etude.record import Evaluation, Status
from etude.schedules import Clock, Schedule
from etude.tasks.groups import freeze_rest
from etude.tasks.sources.data import Cursor
from etude.tasks.task import Task
from etude.training import feedback
from etude.training.checks.flow import flow_of
from etude.training.clock import batch_size_of, clock_of
from etude.training.evaluation.early_stopping import EarlyStopping
from etude.training.evaluation.evaluation_steps import evenly_spaced, own_evaluation_steps
from etude.training.initialisation import prepare_model
from etude.training.machine.device import device_for
from etude.training.machine.precision import autocast
from etude.training.objective import Objective
from etude.training.state.rng import RunRandomness
from etude.training.world import SINGLE, World, current


@dataclass(eq=False)
class RunState:
    """The state of one run. Only `Run` changes it; others read it.

    Attributes:
        task: The task; its data is on the device.
        recipe: The recipe.
        device: The device.
        batch_size: The number of samples in one batch.
        clock: The updates in the run and in an epoch, and the samples in an update.
        model: The network.
        optimizer: Its parameter groups hold the values of the newest update.
        optimizer_spec: The optimizer's row in the table.
        rates: The multipliers of the rate; None if every parameter has the same rate.
        lr_schedule: The schedule by which the recipe's rate is multiplied, bound to the run.
        hyperparameter_schedules: The schedules of other hyperparameters, by name.
        evaluation_steps: The updates after which the recipe requests an evaluation.
        randomness: The run's own random state.
        early_stopping: The best evaluation and its weights; None if the recipe does not use it.
        threads: The number of threads with which torch computes an update.
        step: The number of updates done.
        extra_gradients: The number of gradients computed beyond one for each update.
        gradient_step: The update whose gradient is still in the parameters; -1 for none.
        loaded_step: The step of the last saved state that was restored; None if there is none.
        status: Whether it has finished, diverged, or can continue ('stopped').
        reason: Why it ended, or what interrupted it.
        seconds: Time spent on updates and evaluations.
        evaluation_seconds: Of these, on evaluations and on what observers do at them.
        series: What was measured in each update, by name.
        evaluations: The evaluations, in order.
        extended: (update, length until then) for each time that the length was changed.
        cursor: The position in the data of the next batch.
        objective: What an update minimises; None in a stack of runs, and before there is a loop.
        world: The processes that train the run together.
    """

    task: Task
    recipe: Recipe
    device: torch.device
    batch_size: int
    clock: Clock
    model: nn.Module
    optimizer: Optimizer
    optimizer_spec: OptimizerRow
    rates: Rates | None
    lr_schedule: Schedule
    hyperparameter_schedules: dict[str, Schedule]
    evaluation_steps: set[int]
    randomness: RunRandomness
    early_stopping: EarlyStopping | None
    threads: int = field(default_factory=torch.get_num_threads)
    step: int = 0
    extra_gradients: int = 0
    gradient_step: int = -1
    loaded_step: int | None = None
    status: Status = Status.STOPPED
    reason: str = ""
    seconds: float = 0.0
    evaluation_seconds: float = 0.0
    series: dict[str, list[float]] = field(default_factory=lambda: {"loss": [], "lr": []})
    evaluations: list[Evaluation] = field(default_factory=list)
    extended: list[tuple[int, int]] = field(default_factory=list)
    cursor: Cursor = field(default_factory=Cursor)
    objective: Objective | None = field(default=None, repr=False)
    world: World = SINGLE

    @property
    def length(self) -> int:
        """The number of updates in the whole run."""
        length: int = self.clock.horizon
        return length

    @cached_property
    def recipe_digest(self) -> str:
        """The recipe's digest: whoever saves a state, or takes one back, asks for it."""
        digest: str = self.recipe.digest
        return digest

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters that the optimizer updates, in the order of its groups."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    @property
    def lr(self) -> float:
        """The learning rate of the next update, before any multiplier."""
        return self.recipe.lr * self.lr_schedule(self.step)

    @property
    def diverged(self) -> bool:
        """Whether a NaN or Inf has ended the run."""
        return self.status == Status.DIVERGED

    @property
    def ended(self) -> bool:
        """Whether the run has finished, stopped early or diverged."""
        return self.status in (Status.DIVERGED, Status.FINISHED)

    @property
    def is_evaluated(self) -> bool:
        """Whether the current weights were already evaluated."""
        return bool(self.evaluations) and self.evaluations[-1].step == self.step

    def evenly_spaced(self, count: int) -> set[int]:
        """Return the updates that divide the run into `count` parts, including both ends."""
        return evenly_spaced(self.length, count)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of the forward pass for the recipe's precision."""
        return autocast(self.device, self.recipe.precision)

    def react(self, evaluations: Sequence[Evaluation], *, anew: bool = False) -> None:
        """Pass those evaluations that the recipe requests to the schedules.

        Args:
            evaluations: The evaluations, in order.
            anew: Whether they are all, so that what the schedules heard before is forgotten.
        """
        own = [e for e in evaluations if e.step in self.evaluation_steps]
        if anew and self.lr_schedule.has_feedback:
            self.lr_schedule = self.recipe.schedule.over(self.clock)
        for name, schedule in self.hyperparameter_schedules.items() if anew else ():
            if schedule.has_feedback:
                self.hyperparameter_schedules[name] = self.recipe.schedules[name].over(self.clock)
        self.lr_schedule = feedback.record_evaluations(self.lr_schedule, own)
        self.hyperparameter_schedules = {
            name: feedback.record_evaluations(schedule, own)
            for name, schedule in self.hyperparameter_schedules.items()
        }


def initial_state(
    task: Task,
    recipe: Recipe,
    device: str | torch.device | None = None,
    world: World | None = None,
) -> RunState:
    """Return the state of a run before its first update.

    Args:
        task: What to learn.
        recipe: How to learn it.
        device: Where to train; None takes the model's own, else an accelerator, else the CPU.
        world: The processes that train it together; None takes the current world.

    Raises:
        BadValueError: If recipe and data do not fit.
        TaskError: If model, data and loss do not fit together.
    """
    world = current() if world is None else world
    batch_size, clock = batch_size_of(task, recipe), clock_of(task, recipe)
    evaluation_steps = own_evaluation_steps((), clock.horizon, recipe.evaluations)
    lr_schedule = recipe.bound_schedule(clock)
    others = recipe.bound_schedules(clock)
    feedback.check({"schedule": lr_schedule, **others}, task)
    with random_state_kept(derive_seed(recipe.seed, "init")):
        built = task.build()
        place = device_for(device or world.device, built)
        model: nn.Module = built.to(place).train()
        placed = task.on(place)
        prepare_model(model, recipe, placed, batch_size)
        groups = placed.groups(model)
        if groups is not None:
            freeze_rest(model, groups, at_zero=not placed.alternates)
        context = autocast(place, recipe.precision)
        flow = flow_of(placed, recipe, model, batch_size, context)
        lr_mult = prepare(recipe.lr_mult, model, task.model, flow)
        world.refuse(placed, recipe, model, batch_size)
        world.prepare(model)
    told: dict[str, Any] = {"lr": recipe.lr, "lr_mult": lr_mult, "flow": flow, "groups": groups}
    chosen = recipe.optimizer
    optimizer = build(chosen.name, model, **told, **chosen.hyperparameters)
    rates = rates_of(optimizer)
    if rates is not None:
        rates.bind(clock)
    return RunState(
        task=placed,
        recipe=recipe,
        device=place,
        batch_size=batch_size,
        clock=clock,
        model=model,
        optimizer=optimizer,
        optimizer_spec=optimizers.get(chosen.name),
        rates=rates,
        lr_schedule=lr_schedule,
        hyperparameter_schedules=dict(others),
        evaluation_steps=evaluation_steps,
        randomness=RunRandomness(recipe.seed, *([world.rank] if world.rank else [])),
        early_stopping=EarlyStopping(recipe.early_stopping) if recipe.early_stopping else None,
        world=world,
    )
