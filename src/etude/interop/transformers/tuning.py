"""`tune`: the rate of a Trainer, and the `TrainingArguments` to paste."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

from etude.errors import BadValueError
from etude.interop.trainers.floors import Floor, floor_of, warn_of_floor
from etude.interop.trainers.own_optimizer import NamedGroups
from etude.interop.transformers.refusals import check_is_trainer
from etude.interop.transformers.trainer_task import rate_of_trainer, task
from etude.recipe import Recipe
from etude.schedules import Schedule
from etude.tuning.result import TuneResult
from etude.tuning.tune import tune as tune_task


@dataclass(frozen=True, eq=False)
class TrainerTuning:
    """The rate that was found for a Trainer.

    Attributes:
        result: Everything that the tuning found; `result.model` is the trained network.
        arguments: What to set in `TrainingArguments`: the rate, and the scheduler that it was
            found with.
        schedule: The schedule, where it is not one that `TrainingArguments` can name; else None.
        trained: What `trainer.train()` returned, if the Trainer was trained.
        shares: The rates of the optimizer's groups over the highest one.
    """

    result: TuneResult
    arguments: dict[str, Any]
    schedule: Schedule | None = None
    trained: Any = field(default=None, repr=False)
    shares: tuple[float, ...] = (1.0,)

    @property
    def lr(self) -> float:
        """The rate of the group with the highest one; `arguments` has that of the Trainer."""
        return self.result.lr

    def code(self) -> str:
        """Return the arguments as code to paste.

        >>> print(TrainerTuning(None, {"learning_rate": 0.001, "warmup_steps": 5}).code())
        TrainingArguments(
            learning_rate=0.001,
            warmup_steps=5,
        )
        """
        lines = [f"    {name}={value!r}," for name, value in self.arguments.items()]
        text = "\n".join(["TrainingArguments(", *lines, ")"])
        if self.schedule is None:
            return text
        rates = [f"{self.lr * share!r} * ({self.schedule!r})" for share in self.shares]
        told = f'"{rates[0]}"' if len(set(rates)) == 1 else repr(rates)
        return f"{text}\nTrainer = etude.interop.transformers.scheduled(\n    Trainer, lr={told}\n)"

    def __str__(self) -> str:
        advice = self.result.advice()
        return "\n".join(filter(None, [repr(self.result), advice, self.code()]))


def tune(
    trainer: Any,
    budget: float = 3.0,
    *,
    train: bool = False,
    valid: Any = None,
    metric: str | None = None,
    schedule: Schedule | str | None = None,
    **options: Any,
) -> TrainerTuning:
    """Look for the learning rate of a Trainer, and say what to paste into its arguments.

        from etude.interop.transformers import tune
        print(tune(trainer).code())

    The Trainer stays as it is, unless `train=True` asks to train it. Groups of its optimizer that
    have rates of their own, as in LoRA+, keep their proportion, and `learning_rate` is what gives
    the highest group the rate that was found.

    Args:
        trainer: The Trainer.
        budget: In full training runs, the finished model included.
        train: Whether to set the rate in the Trainer's arguments, and then to call its `train()`.
        valid: As in `task`.
        metric: As in `task`.
        schedule: A schedule in place of the Trainer's own.
        options: Of `etude.tune`, such as `folder=`, `engine=` or `over=`, which may name what
            `TrainingArguments` can say. `objective=` is the metric if `metric_for_best_model` names
            one, else the loss.

    Warns if the Trainer's own scheduler has a floor above the rate that was found: transformers'
    `GreedyLR` has one of 0.001 unless its `min_lr` says otherwise.

    Raises:
        BadValueError: If `train=True`, and the optimizer is the Trainer's own object, or does not
            follow its `learning_rate`; if `over=` names what `TrainingArguments` cannot say; or as
            `task` and `etude.tune` raise it.
    """
    check_is_trainer(trainer)
    _check_over(options.get("over") or {}, trainer, train=train)
    if train and (trainer.optimizer is not None or trainer.lr_scheduler is not None):
        raise BadValueError(
            "train=True, but this Trainer already has an optimizer or a scheduler, which keeps its "
            "rate: build a new Trainer from `arguments`, without optimizers=(...)"
        )
    if train and schedule is not None:
        raise BadValueError(
            "train=True, but the Trainer would train with its own scheduler, not with schedule=: "
            "call tune without train=True, and paste what code() returns"
        )
    found, recipe = task(trainer, valid=valid, metric=metric, schedule=schedule)
    share = _share(trainer, recipe, train=train)
    best = trainer.args.metric_for_best_model
    if found.metric is not None and best is not None and found.metric_name == _short(best):
        options.setdefault("objective", "metric")
    result = tune_task(found, recipe, budget, **options)
    arguments = _arguments(trainer.args, recipe, result.recipe, share)
    beyond = None
    chosen = result.recipe.schedule != recipe.schedule
    if chosen or schedule is not None or trainer.lr_scheduler is not None:
        beyond = result.recipe.schedule
        arguments = {
            name: value
            for name, value in arguments.items()
            if name not in ("lr_scheduler_type", "warmup_steps", "lr_scheduler_kwargs")
        }
    kept = arguments.get("lr_scheduler_kwargs", trainer.args.lr_scheduler_kwargs)
    warn_of_floor(_floor(trainer, kept), result.lr)
    trained = None
    if train:
        for name, value in arguments.items():
            setattr(trainer.args, name, value)
        trained = trainer.train()
    assert isinstance(found.param_groups, NamedGroups)
    shares = tuple(float(own["lr_mult"]) for _, own in found.param_groups.groups)
    return TrainerTuning(result, arguments, beyond, trained, shares)


_SAID = ("schedule", "clip_norm", "accumulate")
"""Fields of a recipe that `TrainingArguments`, or a schedule beside them, can say."""


def _check_over(over: Mapping[str, Any], trainer: Any, *, train: bool) -> None:
    """Raise if what is to be chosen cannot be said by `TrainingArguments`.

    Raises:
        BadValueError: If so; the message has the call that chooses it.
    """
    named = {f"optimizer.{name}" for name in _FIELDS}
    adam = trainer.optimizer is None and str(trainer.args.optim).rpartition(".")[2].lower()
    fields = named if adam and "adamw_torch" in adam else set()
    for name in over:
        if name not in _SAID and name not in fields:
            raise BadValueError(
                f"over={{{name!r}: ...}}: TrainingArguments of this Trainer cannot say which was "
                "found: call etude.tune(*etude.interop.transformers.task(trainer), over=...), and "
                "take the optimizer of the recipe that it returns"
            )
    if train and "schedule" in over:
        raise BadValueError(
            "train=True, but the Trainer would train with its own scheduler, not with one of "
            "over={'schedule': ...}: call tune without train=True, and paste what code() returns"
        )


def _share(trainer: Any, recipe: Recipe, *, train: bool) -> float:
    """Return the Trainer's `learning_rate` over the rate of its recipe.

    1 where the optimizer does not follow `learning_rate`: it was given as an object, or its class
    has a rate of its own.

    Raises:
        BadValueError: If the Trainer is to be trained, and does not follow it.
    """
    lr = trainer.args.learning_rate
    if recipe.lr == lr or trainer.optimizer is not None:
        return 1.0
    twice = copy.copy(trainer)
    twice.args = copy.copy(trainer.args)
    twice.args.learning_rate = 2 * lr
    if math.isclose(rate_of_trainer(twice), 2 * rate_of_trainer(trainer)):
        return float(lr / recipe.lr)
    if train:
        raise BadValueError(
            f"train=True, but learning_rate={lr:g} does not change the rate {recipe.lr:g} of the "
            "Trainer's optimizer: let create_optimizer use self.args.learning_rate, or call tune "
            "without train=True and set the rate there"
        )
    return 1.0


def _short(name: str) -> str:
    return name.removeprefix("eval_")


_FIELDS = {
    "weight_decay": "weight_decay",
    "eps": "adam_epsilon",
    "betas": ("adam_beta1", "adam_beta2"),
}
"""Hyperparameters of AdamW, and what `TrainingArguments` calls them."""


def _arguments(args: Any, before: Recipe, after: Recipe, share: float) -> dict[str, Any]:
    """Return what to set: the rate, the scheduler, and what else the tuning chose."""
    kind, lr = args.lr_scheduler_type, after.lr * share
    found: dict[str, Any] = {
        "learning_rate": lr,
        "lr_scheduler_type": str(getattr(kind, "value", kind)),
        "warmup_steps": args.warmup_steps,
    }
    options = scheduler_options(args, lr)
    if options:
        found["lr_scheduler_kwargs"] = options
    for name, place in _FIELDS.items():
        if name in after.optimizer.hyperparameters or name in before.optimizer.hyperparameters:
            value = after.optimizer.value(name)
            if value != before.optimizer.value(name):
                places = (place,) if isinstance(place, str) else place
                values = (value,) if isinstance(place, str) else value
                found |= dict(zip(places, values, strict=True))
    if after.clip_norm != before.clip_norm:
        found["max_grad_norm"] = after.clip_norm or 0.0
    if after.accumulate != before.accumulate:
        found["gradient_accumulation_steps"] = after.accumulate
    return found


_FLOORS = {
    "greedy": "min_lr",
    "reduce_lr_on_plateau": "min_lr",
    "cosine_with_min_lr": "min_lr",
    "cosine_warmup_with_min_lr": "min_lr",
    "polynomial": "lr_end",
}
"""Kinds of scheduler of transformers with a floor, and the option that sets it."""


def _floor(trainer: Any, options: dict[str, Any] | None) -> Floor | None:
    """Return the floor of the Trainer's own scheduler, with these options, if it has one."""
    if trainer.lr_scheduler is not None:
        return floor_of(trainer.lr_scheduler)
    given = trainer.args.lr_scheduler_type
    kind = str(getattr(given, "value", given))
    option = _FLOORS.get(kind)
    if option is None:
        return None
    value = (options or {}).get(option)
    if value is None and kind == "greedy":
        from transformers.optimization import GreedyLR

        value = signature(GreedyLR).parameters[option].default
    values = value if isinstance(value, (list, tuple)) else [value]
    known = [float(v) for v in values if isinstance(v, (int, float))]
    return Floor(kind, option, max(known)) if known else None


def scheduler_options(args: Any, lr: float) -> dict[str, Any]:
    """Return `lr_scheduler_kwargs` for another rate: floors stay in proportion to it.

    A floor given as a rate (`min_lr`, `lr_end`) is part of the schedule's shape. It was tuned as a
    share of the rate, so it is scaled with it.
    """
    options = dict(args.lr_scheduler_kwargs or {})
    share = lr / args.learning_rate
    for name in ("min_lr", "lr_end"):
        if options.get(name) is not None:
            options[name] = options[name] * share
    kind = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    if kind == "polynomial":
        options.setdefault("lr_end", 1e-7 * share)
    return options
