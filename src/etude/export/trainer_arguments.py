"""Writes a recipe as `TrainingArguments`, for transformers, TRL and Unsloth, and for Axolotl."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from etude.errors import BadValueError
from etude.export.ramp import DecayCurve, RateRamp, check_same, ramp_of
from etude.export.target import (
    refuse_beyond_one_rate,
    refuse_field,
    refuse_optimizer,
    refuse_value,
    remainder,
    shape_over,
)
from etude.recipe import Recipe
from etude.schedules import Schedule, warmup

if TYPE_CHECKING:
    from etude.tasks.task import Task

APPLIED = ("clip_norm", "accumulate", "batch_size", "precision", "seed")

CLASSES = {
    "transformers": "from transformers import TrainingArguments",
    "unsloth": "from trl import SFTConfig",
}
"""The import of the class that takes the arguments, by target."""


def training_arguments(
    recipe: Recipe,
    steps: int,
    *,
    target: str = "transformers",
    task: Task | None = None,
    nearest: bool = False,
) -> str:
    r"""Return the arguments of a recipe, as code that builds them.

    Args:
        recipe: The recipe to write.
        steps: The number of updates.
        target: 'transformers' for `TrainingArguments`, 'unsloth' for the `SFTConfig` of TRL.
        task: The task, whose parameter groups cannot be written.
        nearest: Whether to take the nearest schedule that they have, and to say in a comment by
            how much it differs.

    Raises:
        BadValueError: If they have no such optimizer or schedule, or the recipe several rates.

    >>> code = training_arguments(Recipe(lr=0.001, schedule="warmup(50) >> cosine()"), 1000)
    >>> print("\n".join(code.splitlines()[3:9]))
    arguments = TrainingArguments(
        learning_rate=0.001,
        lr_scheduler_type='cosine',
        warmup_steps=50,
        max_steps=1000,
        optim='adamw_torch',
    """
    values, note = _values(recipe, steps, target, nearest, task)
    size = {} if recipe.batch_size is None else {"per_device_train_batch_size": recipe.batch_size}
    head = CLASSES[target]
    lines = [f"    {name}={value!r}," for name, value in {**values, **size}.items()]
    return "\n".join(
        [
            head,
            "",
            *_decay_note(recipe),
            f"arguments = {head.rpartition(' ')[2]}(",
            *lines,
            ")",
            *note,
            *remainder(recipe, APPLIED),
        ]
    )


def axolotl_yaml(
    recipe: Recipe, steps: int, *, task: Task | None = None, nearest: bool = False
) -> str:
    """Return the lines of a recipe in an Axolotl configuration.

    Args:
        recipe: The recipe to write.
        steps: The number of updates.
        task: The task, whose parameter groups cannot be written.
        nearest: As for `training_arguments`.

    Raises:
        BadValueError: As for `training_arguments`; and for a warmup of one update, of which
            Axolotl makes two.

    >>> print(axolotl_yaml(Recipe(lr=1e-5, schedule="warmup(50) >> linear()"), 1000))
    # Axolotl. Add it to your configuration.
    learning_rate: 1.0e-05
    lr_scheduler: linear
    warmup_steps: 50
    max_steps: 1000
    optimizer: adamw_torch
    weight_decay: 0.01
    adam_beta1: 0.9
    adam_beta2: 0.999
    adam_epsilon: 1.0e-08
    max_grad_norm: 0.0
    gradient_accumulation_steps: 1
    seed: 0
    # Biases and norms are not decayed there; the recipe decays every parameter.
    # The recipe also sets evaluations=20: not applied here.
    """
    values, note = _values(recipe, steps, "Axolotl", nearest, task)
    if values["warmup_steps"] == 1:
        raise BadValueError(
            f"schedule {recipe.schedule!r} has a warmup of 1 update, of which Axolotl makes 2: "
            "give none, or at least 2"
        )
    renamed = {"lr_scheduler_type": "lr_scheduler", "optim": "optimizer"}
    if isinstance(recipe.batch_size, int):
        values["micro_batch_size"] = recipe.batch_size
    lines = [f"{renamed.get(name, name)}: {_yaml(value)}" for name, value in values.items()]
    rest = [*_decay_note(recipe), *note, *remainder(recipe, APPLIED)]
    return "\n".join(["# Axolotl. Add it to your configuration.", *lines, *rest])


def _yaml(value: Any) -> str:
    """Return a value as YAML 1.1, where a number with an exponent needs a point."""
    if isinstance(value, float):
        mantissa, e, exponent = repr(value).partition("e")
        return f"{mantissa}.0e{exponent}" if e and "." not in mantissa else repr(value)
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {_yaml(one)}' for name, one in value.items())}}}"
    return value if isinstance(value, str) else json.dumps(value)


def _decay_note(recipe: Recipe) -> list[str]:
    if not recipe.optimizer.value("weight_decay"):
        return []
    return ["# Biases and norms are not decayed there; the recipe decays every parameter."]


def _values(
    recipe: Recipe, steps: int, target: str, nearest: bool, task: Task | None
) -> tuple[dict[str, Any], list[str]]:
    """Return the arguments, and a comment on what differs."""
    refuse_beyond_one_rate(recipe, target, task)
    refuse_optimizer(recipe, target, ("adamw",))
    refuse_value(recipe, "amsgrad", False, target, "has no amsgrad")
    refuse_field(recipe, "clip_value", target, "clips the norm only")
    if recipe.batch_size == "all":
        raise BadValueError(
            f"batch_size='all': {target} takes a number of samples: give the size of your data"
        )
    values, note = _schedule(recipe, steps, target, nearest)
    values["max_steps"] = steps
    values["optim"] = "adamw_torch"
    values["weight_decay"] = recipe.optimizer.value("weight_decay")
    values["adam_beta1"], values["adam_beta2"] = recipe.optimizer.value("betas")
    values["adam_epsilon"] = recipe.optimizer.value("eps")
    values["max_grad_norm"] = recipe.clip_norm or 0.0
    values["gradient_accumulation_steps"] = recipe.accumulate
    if recipe.precision != "float32":
        values["bf16" if recipe.precision == "bfloat16" else "fp16"] = True
    values["seed"] = recipe.seed
    return values, note


def _schedule(
    recipe: Recipe, steps: int, target: str, nearest: bool
) -> tuple[dict[str, Any], list[str]]:
    """Return the values of the schedule, and a comment on what differs."""
    shape = shape_over(recipe, steps)
    found = ramp_of(shape)
    named = None if found is None else _named(found, recipe.lr, steps)
    if found is None or named is None:
        raise BadValueError(
            f"schedule {recipe.schedule!r}: {target} has a linear warmup, then constant, linear, "
            "cosine, polynomial, rsqrt or wsd, over the whole run. Write such a one, or export it "
            "as 'torch'"
        )
    name, options = named
    note = check_same(shape, _curve(found, name), steps, target, nearest)
    values: dict[str, Any] = {
        "learning_rate": recipe.lr * found.peak,
        "lr_scheduler_type": name,
        "warmup_steps": int(found.warmup),
    }
    if options:
        values["lr_scheduler_kwargs"] = options
    return values, note


def _named(ramp: RateRamp, lr: float, steps: int) -> tuple[str, dict[str, Any]] | None:
    """Return the name of a scheduler of transformers and its options; None if it has none."""
    if ramp.decay == DecayCurve.NONE:
        return ("constant_with_warmup" if ramp.warmup else "constant"), {}
    if ramp.decay == DecayCurve.RSQRT and not ramp.hold:
        return "inverse_sqrt", {"timescale": int(ramp.length)}
    if ramp.end != steps:
        return None
    if (
        ramp.hold
        or ramp.decay == DecayCurve.SQRT
        or (ramp.decay == DecayCurve.LINEAR and ramp.floor)
    ):
        if ramp.decay not in (DecayCurve.LINEAR, DecayCurve.COSINE, DecayCurve.SQRT):
            return None
        curve = "1-sqrt" if ramp.decay == DecayCurve.SQRT else ramp.decay.value
        options: dict[str, Any] = {"num_decay_steps": int(ramp.length), "decay_type": curve}
        if ramp.floor:
            options["min_lr_ratio"] = ramp.floor
        return "warmup_stable_decay", options
    if ramp.decay == DecayCurve.COSINE:
        return ("cosine_with_min_lr", {"min_lr_rate": ramp.floor}) if ramp.floor else ("cosine", {})
    if ramp.decay == DecayCurve.LINEAR:
        return "linear", {}
    return "polynomial", {"power": ramp.power, "lr_end": ramp.floor * ramp.peak * lr}


def _curve(ramp: RateRamp, name: str) -> Schedule:
    """Return what a scheduler gives: its warmup starts at 0, that of WSD at the floor."""
    shape = ramp.falling
    if ramp.hold:
        shape = RateRamp(1.0).falling.take(ramp.hold) >> shape
    if ramp.warmup:
        start = ramp.floor if name == "warmup_stable_decay" else 0.0
        shape = warmup(ramp.warmup, start=start) >> shape
    return ramp.scaled(shape)
