"""Writes a recipe as a configuration of torchtitan (github.com/pytorch/torchtitan).

Releases up to 0.2.2 read a TOML file. Since then a configuration is a function in Python.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import tomli_w

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
from etude.schedules import Schedule, constant, warmup

if TYPE_CHECKING:
    from etude.tasks.task import Task

DECAYS = (DecayCurve.NONE, DecayCurve.LINEAR, DecayCurve.COSINE, DecayCurve.SQRT)


def torchtitan_toml(
    recipe: Recipe, steps: int, *, task: Task | None = None, nearest: bool = False
) -> str:
    """Return the tables `optimizer`, `lr_scheduler` and `training` of torchtitan's TOML.

    For releases up to 0.2.2. The rate is lr·(t + 1)/W for t < W, then constant, and falls from
    update T − D on by the share (t − T + D)/D of a line, a cosine or 1 − √.

    Args:
        recipe: The recipe to write.
        steps: The number of updates.
        task: The task, whose parameter groups cannot be written.
        nearest: Whether to take the nearest schedule that torchtitan has, and to say in a comment
            by how much it differs.

    Raises:
        BadValueError: If torchtitan has no such optimizer or schedule, or the recipe several rates.

    >>> recipe = Recipe(lr=0.001, schedule="constant(length='80%') >> linear()")
    >>> print(torchtitan_toml(recipe, 1000).split("[training]")[0])
    # torchtitan up to 0.2.2.
    [optimizer]
    name = "AdamW"
    lr = 0.001
    beta1 = 0.9
    beta2 = 0.999
    eps = 1e-08
    weight_decay = 0.01
    <BLANKLINE>
    [lr_scheduler]
    warmup_steps = 0
    decay_ratio = 0.2
    decay_type = "linear"
    min_lr_factor = 0.0
    <BLANKLINE>
    <BLANKLINE>
    """
    values, note = _schedule(recipe, steps, nearest, task)
    choice = recipe.optimizer
    beta1, beta2 = choice.value("betas")
    optimizer = {
        "name": "AdamW" if choice.name == "adamw" else "Adam",
        "lr": values.pop("lr"),
        "beta1": beta1,
        "beta2": beta2,
        "eps": choice.value("eps"),
        "weight_decay": choice.value("weight_decay"),
    }
    tables = {
        "optimizer": optimizer,
        "lr_scheduler": values,
        "training": {"steps": steps, "max_norm": recipe.clip_norm or math.inf},
    }
    text = tomli_w.dumps(tables).rstrip("\n")
    rest = remainder(recipe, ("clip_norm",))
    return "\n".join(["# torchtitan up to 0.2.2.", text, *note, *rest])


def torchtitan_code(
    recipe: Recipe, steps: int, *, task: Task | None = None, nearest: bool = False
) -> str:
    """Return a function that sets a recipe in a `Trainer.Config` of torchtitan.

    For torchtitan after 0.2.2, whose configurations are functions in Python.

    Args:
        recipe: The recipe to write.
        steps: The number of updates.
        task: The task, whose parameter groups cannot be written.
        nearest: As for `torchtitan_toml`.

    Raises:
        BadValueError: As `torchtitan_toml`.

    >>> recipe = Recipe(lr=0.001, schedule="constant(length='80%') >> linear()")
    >>> print(torchtitan_code(recipe, 1000).splitlines()[1])
    from torchtitan.components.optimizer import LRSchedulersContainer, default_adamw
    """
    refuse_optimizer(recipe, "torchtitan's default_adamw", ("adamw",))
    values, note = _schedule(recipe, steps, nearest, task)
    choice = recipe.optimizer
    told = ", ".join(f"{k}={choice.value(k)!r}" for k in ("betas", "eps", "weight_decay"))
    lr = values.pop("lr")
    norm = 'float("inf")' if recipe.clip_norm is None else repr(recipe.clip_norm)
    return "\n".join(
        [
            "# torchtitan after 0.2.2. Call it on the Trainer.Config that your function returns.",
            "from torchtitan.components.optimizer import LRSchedulersContainer, default_adamw",
            "",
            "",
            "def with_recipe(config):",
            f"    config.optimizer = default_adamw(lr={lr!r}, {told})",
            "    config.lr_scheduler = LRSchedulersContainer.Config(",
            *(f"        {name}={value!r}," for name, value in values.items()),
            "    )",
            f"    config.training.steps = {steps}",
            f"    config.training.max_norm = {norm}",
            "    return config",
            *note,
            *remainder(recipe, ("clip_norm",)),
        ]
    )


def _schedule(
    recipe: Recipe, steps: int, nearest: bool, task: Task | None
) -> tuple[dict[str, Any], list[str]]:
    """Return the rate and the values of the schedule, and a comment on what differs."""
    refuse_beyond_one_rate(recipe, "torchtitan", task)
    refuse_optimizer(recipe, "torchtitan", ("adam", "adamw"))
    refuse_value(recipe, "amsgrad", False, "torchtitan", "has no amsgrad")
    refuse_field(recipe, "clip_value", "torchtitan", "clips the norm only")
    shape = shape_over(recipe, steps)
    found = ramp_of(shape)
    if found is None or found.decay not in DECAYS:
        raise BadValueError(
            f"schedule {recipe.schedule!r}: torchtitan has a linear warmup, a constant rate, and a "
            "linear, cosine or sqrt decay. Write wsd() or \"warmup('5%') >> cosine()\", or export "
            "it as 'torch'"
        )
    total = steps if found.decay == DecayCurve.NONE else int(found.end)
    if total < steps:
        raise BadValueError(
            f"schedule {shape!r} has ended after {total:,} of {steps:,} updates: torchtitan has no "
            "rate after the end of a decay. Let the decay last to the end, or export it as 'torch'"
        )
    # A warmup from 1/W over W - 1 updates is torchtitan's of W.
    given = int(found.warmup) + (1 if found.warmup and found.start else 0)
    chosen = _Titan(found, min(given, total), total)
    note = check_same(shape, chosen.curve, steps, "torchtitan", nearest)
    values = {"lr": recipe.lr * found.peak, **chosen.values}
    if total != steps:
        values["total_steps"] = total
    return values, note


class _Titan:
    """The schedule of torchtitan that is as long as a ramp, after a warmup of some updates."""

    def __init__(self, ramp: RateRamp, warmup_steps: int, total: int) -> None:
        self.ramp, self.warmup, self.total = ramp, warmup_steps, total
        self.decay = min(int(ramp.length), total - warmup_steps)

    @property
    def values(self) -> dict[str, Any]:
        """The fields of its configuration."""
        ramp = self.ramp
        found: dict[str, Any] = {"warmup_steps": self.warmup}
        if self.decay != self.total - self.warmup:
            found["decay_ratio"] = self.decay / self.total
        falls = ramp.decay != DecayCurve.NONE
        found["decay_type"] = ramp.decay.value if falls else DecayCurve.LINEAR.value
        found["min_lr_factor"] = ramp.floor
        return found

    @property
    def curve(self) -> Schedule:
        """What it gives."""
        rising = max(self.warmup - 1, 0)
        hold = self.total - self.decay - rising
        shape: Schedule = constant(length=hold)
        if rising:
            shape = warmup(rising, start=1 / self.warmup) >> shape
        if self.decay:
            falling = RateRamp(1.0, decay=self.ramp.decay, length=self.decay, floor=self.ramp.floor)
            shape = shape >> falling.falling
        return self.ramp.scaled(shape)
