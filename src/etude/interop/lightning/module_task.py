"""`task`: what a LightningModule learns, and how, as a task and a recipe."""

from __future__ import annotations

import copy
import os
import warnings
from typing import Any, NamedTuple

import torch
from torch import nn

from etude.errors import BadValueError, TaskError
from etude.interop.lightning.library import library_of
from etude.interop.lightning.module_data import ModuleData, loaders_of
from etude.interop.lightning.module_optimizer import configured
from etude.interop.lightning.module_step import ModuleStep, learn_names
from etude.interop.lightning.settings import FitSettings, length_of, limited, settings_of
from etude.interop.lightning.stand_in import StandIn, attached
from etude.interop.trainers.own_schedule import OwnSchedule, as_schedule
from etude.interop.trainers.reading import TaskAndRecipe
from etude.randomness import random_state_kept
from etude.recipe import Recipe
from etude.schedules import Clock, Schedule
from etude.schedules.clock import updates_per_epoch
from etude.tasks.sources.source import Cursor
from etude.tasks.task import Task

REFUSED = (
    "optimizer_step",
    "backward",
    "configure_gradient_clipping",
    "clip_gradients",
    "lr_scheduler_step",
)
"""Methods with which a module trains in a way of its own."""

NOT_CALLED = (
    "on_fit_start",
    "on_train_start",
    "on_train_epoch_start",
    "on_train_epoch_end",
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_before_zero_grad",
    "optimizer_zero_grad",
    "on_validation_epoch_start",
    "on_validation_epoch_end",
)
"""Hooks of a module that a task does not call."""


def task(
    module: Any,
    data: Any = None,
    valid: Any = None,
    *,
    trainer: Any = None,
    steps: int | str | None = None,
    metric: str | None = None,
    schedule: Schedule | str | None = None,
) -> TaskAndRecipe:
    """Read what a module learns, and how, into a task and a recipe.

        task, recipe = etude.interop.lightning.task(module, datamodule, trainer=trainer)

    `etude.train(task, recipe)` then computes the losses of `trainer.fit(module, ...)`, update by
    update: with `training_step`, the optimizer, groups and scheduler of `configure_optimizers`, and
    the Trainer's accumulation, clipping and precision. Where the loader shuffles, the order is
    drawn from the recipe's seed, and dropout draws other masks than in a fit, because a run has its
    own random state.

    Weights begin as the module has them now. Module, data module, Trainer and random state do not
    change. Hooks such as `on_train_batch_end`, callbacks and loggers are not called.

    Args:
        module: The module.
        data: The DataLoader of the training data, or a LightningDataModule; None takes the module's
            own `train_dataloader`.
        valid: The DataLoader of the validation data; None takes `val_dataloader`.
        trainer: The Trainer of the fit; None is one with Lightning's defaults.
        steps: The length of the run, as in a recipe; None takes the Trainer's.
        metric: Which value that `validation_step` logs is the metric; None takes what a callback
            monitors, else the first that is not a loss.
        schedule: A schedule in place of the module's own.

    Raises:
        BadTypeError: If it is no LightningModule, or the data are no DataLoader.
        BadValueError: If the module trains by manual optimization or with several optimizers, if
            the Trainer uses several devices, float16 or a callback that changes the rate, or if the
            run has no length. The message says what to do.
        TaskError: If there are no validation data, or a step returns no loss.

    Source: `Trainer.fit` of Lightning, which it follows.
    """
    reading = read(module, data, valid, trainer=trainer, steps=steps)
    if reading.valid is None:
        raise TaskError(
            "there are no validation data, on which rates are compared: give the DataLoader as the "
            "third argument, or a data module with val_dataloader"
        )
    if type(module).validation_step is reading.library.LightningModule.validation_step:
        raise TaskError(
            f"{type(module).__name__} has no validation_step, by which rates are compared: define "
            "one that returns the loss, or logs it with self.log('val_loss', loss)"
        )
    step = reading.step
    with random_state_kept(), reading.valid.untouched():
        network = copy.deepcopy(reading.network)
        first = next(iter(reading.valid.sweep(1)), (None, 0))[0]
        if first is None:
            raise TaskError("the validation data are empty: give at least one batch")
        found = learn_names(step, network, first, metric, _monitors(trainer))
    _warn_of_hooks(module, reading.library)
    return reading.pair(found, schedule)


class ModuleReading(NamedTuple):
    """What was read of a module, its data and its Trainer."""

    library: Any
    network: nn.Module
    step: ModuleStep
    train: ModuleData
    valid: ModuleData | None
    settings: FitSettings
    length: int | str
    optimizer: Any
    schedule: OwnSchedule

    def pair(self, metric: Any, schedule: Schedule | str | None) -> TaskAndRecipe:
        """Return the task and the recipe."""
        own = self.schedule
        if schedule is not None:
            own = OwnSchedule(as_schedule(schedule), self.optimizer.lr, {})
        made = Task(
            self.network,
            train=self.train,
            valid=self.valid or self.train,
            step=self.step,
            metric=metric,
            name=type(self.network).__name__,
            param_groups=self.optimizer.groups,
        )
        recipe = Recipe(
            optimizer=self.optimizer.choice,
            lr=own.lr,
            schedule=own.factor,
            schedules=own.others,
            steps=self.length,
            accumulate=self.settings.accumulate,
            clip_norm=self.settings.clip_norm,
            clip_value=self.settings.clip_value,
            precision=self.settings.precision,
            seed=int(os.environ.get("PL_GLOBAL_SEED", "0")),
        )
        return TaskAndRecipe(made, recipe)


def read(
    module: Any, data: Any, valid: Any, *, trainer: Any, steps: int | str | None
) -> ModuleReading:
    """Read a module, its data and its Trainer, and try a batch of the training data.

    Raises:
        As `task` does.
    """
    library = library_of(module)
    _check_module(module)
    settings = settings_of(trainer, library, module)
    with random_state_kept():
        network: Any = copy.deepcopy(module)
        stand_in = StandIn(
            trainer,
            accumulate_grad_batches=settings.accumulate,
            max_epochs=settings.max_epochs,
            max_steps=settings.max_steps,
            callback_metrics={},
        )
        with attached(network, stand_in):
            loaders = loaders_of(network, library, data, valid, stand_in)
            vars(stand_in)["datamodule"] = loaders.datamodule
            network.setup("fit")
            network.configure_model()
        train = ModuleData(loaders.train, settings.limit_train, "training DataLoader")
        held_out = _held_out(loaders.valid, settings)
        batches = train.steps_per_epoch(1)
        length = length_of(settings, batches, steps)
        per_epoch = None if batches is None else -(-batches // settings.accumulate)
        clock = Clock(
            horizon=length,
            steps_per_epoch=None
            if batches is None
            else updates_per_epoch(batches, settings.accumulate, across_epochs=False),
            samples_per_step=train.check(None) * settings.accumulate,
        )
        vars(stand_in).update(
            estimated_stepping_batches=clock.horizon,
            num_training_batches=float("inf") if batches is None else batches,
            train_dataloader=loaders.train,
        )
        with attached(network, stand_in):
            optimizer, schedule = configured(network, clock.horizon, batches, settings.accumulate)
        still = [name for name, part in network.named_modules() if name and not part.training]
        step = ModuleStep(stand_in, settings.accumulate, per_epoch, loaders.datamodule, still)
        _try_training(step, copy.deepcopy(network), train)
    return ModuleReading(
        library, network, step, train, held_out, settings, length, optimizer, schedule
    )


def _held_out(loader: Any, settings: FitSettings) -> ModuleData | None:
    if loader is None or limited(None, settings.limit_val) == 0 or settings.limit_val == 0:
        return None
    return ModuleData(loader, settings.limit_val, "validation DataLoader")


def _try_training(step: ModuleStep, network: nn.Module, train: ModuleData) -> None:
    """Call `training_step` once, so that one that returns nothing is found before the run."""
    network.train()
    with train.untouched():
        batch = next(train.stream(1, 0, Cursor()))
    with random_state_kept(0), torch.no_grad():
        step(network, batch)


def _check_module(module: Any) -> None:
    name = type(module).__name__
    if not module.automatic_optimization:
        raise BadValueError(
            f"{name} trains by manual optimization, in which the module itself calls its "
            "optimizers: write a etude.Task with step= a function that yields the loss of each "
            "part in turn (docs/tasks.md, 'Parts that take turns'), which is tuned with one rate"
        )
    base = next(one for one in type(module).__mro__ if one.__name__ == "LightningModule")
    for method in REFUSED:
        if getattr(type(module), method) is not getattr(base, method):
            raise BadValueError(
                f"{name} overrides {method}, with which it trains in a way of its own that a task "
                "would not follow: leave it out while tuning, or say it by the Trainer "
                "(gradient_clip_val, accumulate_grad_batches) or the scheduler"
            )


def _warn_of_hooks(module: Any, library: Any) -> None:
    base = library.LightningModule
    own = [name for name in NOT_CALLED if getattr(type(module), name) is not getattr(base, name)]
    if own:
        warnings.warn(
            f"{type(module).__name__} overrides {', '.join(own)}, which a tuning does not call: if "
            "training depends on it, the rate may differ from that of a fit",
            stacklevel=3,
        )


def _monitors(trainer: Any) -> list[str]:
    """Return what the callbacks of a Trainer monitor."""
    callbacks = [] if trainer is None else trainer.callbacks
    found = (getattr(callback, "monitor", None) for callback in callbacks)
    return [name for name in found if isinstance(name, str)]
