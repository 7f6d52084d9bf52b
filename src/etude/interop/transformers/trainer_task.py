"""`task`: what a Trainer learns, and how, as a task and a recipe."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.optim import Optimizer
from torch.utils.data import Subset

from etude.errors import BadValueError, TaskError, kind_of
from etude.interop.trainers.own_optimizer import OwnOptimizer, read_optimizer, unwrapped
from etude.interop.trainers.own_schedule import OwnSchedule, as_schedule, relative
from etude.interop.trainers.reading import TaskAndRecipe
from etude.interop.transformers.refusals import check_trainer
from etude.interop.transformers.trainer_data import TrainerData
from etude.interop.transformers.trainer_step import TrainerStep, metric_of
from etude.interop.transformers.twin import network_of, twin_of
from etude.randomness import random_state_kept
from etude.recipe import Recipe
from etude.schedules import Schedule
from etude.tasks.sources.source import held_out
from etude.tasks.task import Task
from etude.training.evaluation.evaluate import move

EVALUATIONS = 20
"""The number of evaluations of a run, unless the Trainer evaluates more rarely."""


def task(
    trainer: Any,
    *,
    valid: Any = None,
    metric: str | None = None,
    schedule: Schedule | str | None = None,
) -> TaskAndRecipe:
    """Read what a Trainer learns, and how, into a task and a recipe.

        task, recipe = etude.interop.transformers.task(trainer)

    `etude.train(task, recipe)` then computes the losses of `trainer.train()`, update by update:
    with its data in its order, its collator, `compute_loss`, label smoothing, parameter groups,
    scheduler, clipping, accumulation and precision. Losses per token are sums over counts. Dropout
    draws other masks than the Trainer's, because a run has its own random state.

    Weights begin as the model has them now. The Trainer, its model and the random state do not
    change; the callbacks are not called.

    Args:
        trainer: The Trainer, before or after a training.
        valid: What to evaluate on, in place of `eval_dataset`: a dataset, a name where that is a
            table of several, or the share of the training data to hold out.
        metric: Which value of `compute_metrics` to measure; None takes `metric_for_best_model`, or
            the first one.
        schedule: A schedule in place of the Trainer's own.

    Raises:
        BadTypeError: If it is not a Trainer.
        BadValueError: If it trains with DeepSpeed, FSDP, fp16 or on several devices; if a callback
            changes the rate; if it has no length; or if its optimizer or scheduler is unknown. The
            message says what to do.
        TaskError: If it has no evaluation data, or its optimizer is one of another model.

    Source: `Trainer` of transformers, whose `train` it follows.
    """
    check_trainer(trainer)
    with random_state_kept():
        network = network_of(trainer)
        twin = twin_of(trainer, network)
        valid = _split(twin, valid)
        step = TrainerStep(twin)
        train = _train_data(twin, step)
        steps = _length(twin, train)
        own = _optimizer(trainer, twin)
        if schedule is None:
            own_schedule = _schedule(trainer, twin, own, steps)
        else:  # the Trainer's own is not asked for, and may be one that cannot be read
            own_schedule = OwnSchedule(as_schedule(schedule), own.lr, {})
            twin.optimizer = twin.lr_scheduler = None
        loader = _eval_loader(twin, valid)
        held_out = TrainerData(loader, None, seeded=False, count=step.count)
        with held_out.untouched():
            probe = next(iter(held_out.sweep(1)), (None, 0))[0]
        if probe is None:
            raise TaskError("eval_dataset of the Trainer is empty: give at least one sample")
        probe = move(probe, next((p.device for p in network.parameters()), None))
        found = metric_of(trainer, step, network, metric, probe)
    made = Task(
        network,
        train=train,
        valid=held_out,
        step=step,
        metric=found,
        name=type(network).__name__,
        param_groups=own.groups,
    )
    return TaskAndRecipe(made, _recipe(trainer.args, own, own_schedule, steps))


def rate_of_trainer(trainer: Any) -> float:
    """Return the highest rate of the groups of a Trainer's optimizer, which does not change."""
    with random_state_kept():
        return _optimizer(trainer, twin_of(trainer, network_of(trainer))).lr


def _recipe(args: Any, own: OwnOptimizer, schedule: OwnSchedule, steps: int) -> Recipe:
    return Recipe(
        optimizer=own.choice,
        lr=schedule.lr,
        schedule=schedule.factor,
        schedules=schedule.others,
        steps=steps,
        accumulate=args.gradient_accumulation_steps,
        clip_norm=args.max_grad_norm if args.max_grad_norm and args.max_grad_norm > 0 else None,
        evaluations=_evaluations(args, steps, schedule.factor),
        precision="bfloat16" if args.bf16 else "float32",
        seed=args.seed,
    )


def _evaluations(args: Any, steps: int, schedule: Schedule) -> int:
    """Return how often the Trainer evaluates; at most 20 times unless its scheduler listens."""
    how, count = str(getattr(args.eval_strategy, "value", args.eval_strategy)), EVALUATIONS
    if how == "steps" and args.eval_steps:
        every = args.eval_steps if args.eval_steps >= 1 else math.ceil(args.eval_steps * steps)
        count = max(1, round(steps / every))
    elif how == "epoch" and args.max_steps <= 0:
        count = max(1, math.ceil(args.num_train_epochs))
    return count if schedule.has_feedback else min(count, EVALUATIONS)


def _split(twin: Any, valid: Any) -> Any:
    """Return what to evaluate on; a share of the training data is taken out of the twin's."""
    if isinstance(valid, bool) or not isinstance(valid, (int, float)):
        return valid
    if twin.train_dataset is None or not hasattr(twin.train_dataset, "__len__"):
        raise TaskError(
            f"valid={valid}: the training data has no length, so that no share of it can be held "
            "out; give valid= a dataset"
        )
    count = len(twin.train_dataset)
    held = held_out(count, valid)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    whole = twin.train_dataset
    twin.train_dataset = Subset(whole, sorted(order[held:]))
    return Subset(whole, sorted(order[:held]))


def _train_data(twin: Any, step: TrainerStep) -> TrainerData:
    if twin.train_dataset is None:
        raise TaskError("the Trainer has no training data: give Trainer(train_dataset=...)")
    loader = twin.get_train_dataloader()
    accelerator = twin.accelerator
    wrapped = any(loader is one for one in accelerator.loaders)
    seeded = wrapped and bool(getattr(accelerator, "use_seedable_sampler", False))
    return TrainerData(
        loader,
        twin.args.data_seed,
        seeded=seeded,
        count=step.count,
        accumulate=twin.args.gradient_accumulation_steps,
    )


def _eval_loader(twin: Any, valid: Any) -> Any:
    given = twin.eval_dataset if valid is None else valid
    if given is None:
        raise TaskError(
            "the Trainer has no evaluation data, on which rates are compared: give "
            "Trainer(eval_dataset=...), or hold out a share of the training data with valid=0.1"
        )
    if isinstance(given, dict) or isinstance(valid, str):
        names = list(twin.eval_dataset) if isinstance(twin.eval_dataset, dict) else []
        if valid not in names:
            raise TaskError(
                f"eval_dataset holds {', '.join(map(repr, names)) or 'one set without a name'}: "
                "say with valid= on which of them rates are compared"
            )
    return twin.get_eval_dataloader(valid)


def _length(twin: Any, train: TrainerData) -> int:
    """Return the number of updates of the Trainer's run."""
    args = twin.args
    epochs = args.num_train_epochs
    unset = not epochs or epochs <= 0 or not math.isfinite(epochs)
    if args.max_steps <= 0 and unset:
        raise BadValueError(
            f"max_steps={args.max_steps} and num_train_epochs={epochs} leave the length of the run "
            "open: set max_steps to a number of updates, or num_train_epochs above 0"
        )
    if args.max_steps > 0:
        return int(args.max_steps)
    if train.steps_per_epoch(1) is None:
        raise BadValueError(
            "max_steps is not set, and the training data does not say how long an epoch is: set "
            "max_steps to a number of updates"
        )
    return int(twin.set_initial_training_values(args, train.loader)[-1])


def _optimizer(trainer: Any, twin: Any) -> OwnOptimizer:
    """Read the optimizer that the Trainer was given or has built, or build one for the copy."""
    if trainer.optimizer is not None:
        return read_optimizer(trainer.optimizer, trainer.model, "the Trainer")
    made = twin.create_optimizer()
    if not isinstance(made, Optimizer):
        raise BadValueError(
            f"create_optimizer of {type(twin).__name__} returned {kind_of(made)}: it must "
            "return the optimizer"
        )
    return read_optimizer(made, twin.model, "the Trainer")


def _schedule(trainer: Any, twin: Any, own: OwnOptimizer, steps: int) -> OwnSchedule:
    """Return the scheduler that the Trainer was given, or would build, as a factor of the rate."""
    given = trainer.lr_scheduler
    if given is not None and not trainer._created_lr_scheduler:
        return relative(given, steps, "the Trainer")
    optimizer = twin.optimizer
    if optimizer is None:  # the Trainer's own was read; a scheduler would write into its groups
        kind = type(unwrapped(trainer.optimizer))
        groups = own.groups(twin.model)
        optimizer = kind(
            [{"params": g["params"], "lr": own.lr * g["lr_mult"]} for g in groups], lr=own.lr
        )
        twin.optimizer = optimizer
    scheduler = twin.create_scheduler(steps, optimizer)
    found = relative(scheduler, steps, "the Trainer")
    twin.optimizer = twin.lr_scheduler = None
    return found
