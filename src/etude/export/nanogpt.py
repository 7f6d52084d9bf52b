"""Writes a recipe as a configuration of nanoGPT (github.com/karpathy/nanoGPT, `train.py`)."""

from __future__ import annotations

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
from etude.schedules import Schedule, constant, cosine, warmup

if TYPE_CHECKING:
    from etude.tasks.task import Task

APPLIED = ("clip_norm", "accumulate", "batch_size", "precision")


def nanogpt_config(
    recipe: Recipe, steps: int, *, task: Task | None = None, nearest: bool = False
) -> str:
    r"""Return a configuration file for nanoGPT's `train.py`.

    Its rate is lr·(t + 1)/(W + 1) for t < W, then min + ½(lr − min)(1 + cos(π(t − W)/(D − W))) up
    to D, then min: `warmup(W, start=1 / (W + 1)) >> cosine(D - W, floor=min / lr)`.

    Args:
        recipe: The recipe to write.
        steps: The number of updates. nanoGPT makes `max_iters + 1`.
        task: The task, whose parameter groups cannot be written.
        nearest: Whether to take the nearest schedule that nanoGPT has, and to say in a comment by
            how much it differs.

    Raises:
        BadValueError: If nanoGPT has no such optimizer or schedule, or the recipe several rates.

    >>> text = nanogpt_config(Recipe(lr=0.001, schedule="warmup(9, start=0.1) >> cosine()"), 1000)
    >>> print("\n".join(text.splitlines()[1:7]))
    learning_rate = 0.001
    decay_lr = True
    warmup_iters = 9
    lr_decay_iters = 1000
    min_lr = 0.0
    max_iters = 999
    """
    refuse_beyond_one_rate(recipe, "nanoGPT", task)
    refuse_optimizer(recipe, "nanoGPT", ("adamw",))
    refuse_value(recipe, "eps", 1e-8, "nanoGPT", "keeps torch's epsilon")
    refuse_value(recipe, "amsgrad", False, "nanoGPT", "has no amsgrad")
    refuse_field(recipe, "clip_value", "nanoGPT", "clips the norm only")
    values, note = _schedule(recipe, steps, nearest)
    values["max_iters"] = steps - 1
    values["weight_decay"] = recipe.optimizer.value("weight_decay")
    values["beta1"], values["beta2"] = recipe.optimizer.value("betas")
    values["grad_clip"] = recipe.clip_norm or 0.0
    values["gradient_accumulation_steps"] = recipe.accumulate
    applied = list(APPLIED)
    if isinstance(recipe.batch_size, int):
        values["batch_size"] = recipe.batch_size
    else:
        applied.remove("batch_size")
    values["dtype"] = recipe.precision
    lines = [f"{name} = {value!r}" for name, value in values.items()]
    if values["weight_decay"]:
        note = [*note, "# nanoGPT decays matrices only; the recipe decays every parameter."]
    head = f"# nanoGPT, {steps:,} updates. python train.py THIS_FILE"
    return "\n".join([head, *lines, *note, *remainder(recipe, applied)])


def _schedule(recipe: Recipe, steps: int, nearest: bool) -> tuple[dict[str, Any], list[str]]:
    """Return the values of the schedule, and a comment on what differs."""
    shape = shape_over(recipe, steps)
    found = ramp_of(shape)
    if found is None or found.hold or found.decay not in (DecayCurve.COSINE, DecayCurve.NONE):
        raise BadValueError(
            f"schedule {recipe.schedule!r}: nanoGPT has a constant rate, or a linear warmup and a "
            "cosine. Write \"warmup('5%') >> cosine()\", or export it as 'torch'"
        )
    if found.decay == DecayCurve.NONE and found.warmup:
        raise BadValueError(
            f"schedule {recipe.schedule!r}: nanoGPT has no warmup before a constant rate. Write "
            "constant() or \"warmup('5%') >> cosine()\", or export it as 'torch'"
        )
    note = check_same(shape, curve(found), steps, "nanoGPT", nearest)
    values: dict[str, Any] = {
        "learning_rate": recipe.lr * found.peak,
        "decay_lr": found.decay != DecayCurve.NONE,
    }
    if values["decay_lr"]:
        values["warmup_iters"] = int(found.warmup)
        values["lr_decay_iters"] = int(found.end)
        values["min_lr"] = found.floor * values["learning_rate"]
    return values, note


def curve(ramp: RateRamp) -> Schedule:
    """Return what nanoGPT gives, as a schedule."""
    if ramp.decay == DecayCurve.NONE:
        return constant(ramp.peak)
    falling = cosine(ramp.length, floor=ramp.floor)
    if not ramp.warmup:
        return ramp.scaled(falling)
    return ramp.scaled(warmup(ramp.warmup, start=1 / (ramp.warmup + 1)) >> falling)
