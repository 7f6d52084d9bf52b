"""Writes a recipe for Keras: the schedule as a `LearningRateSchedule`, and the optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etude.errors import BadValueError
from etude.export.formula import KERAS, formula
from etude.export.ramp import EXACT, difference
from etude.export.target import (
    refuse_beyond_one_rate,
    refuse_optimizer,
    refuse_value,
    remainder,
    shape_over,
)
from etude.recipe import Recipe
from etude.schedules import constant

if TYPE_CHECKING:
    from etude.tasks.task import Task

OPTIMIZERS = {"adam": "Adam", "adamw": "AdamW", "lion": "Lion", "sgd": "SGD"}
"""Those that make the same updates in Keras as in torch, and what Keras calls them."""

EPSILON = (
    "# Keras adds epsilon before the second moment is corrected for its start: where gradients are",
    "# no larger than epsilon, its first steps are smaller than torch's.",
)
"""What differs between the two Adams."""


def keras_code(recipe: Recipe, steps: int, *, task: Task | None = None) -> str:
    """Return code that builds a recipe's schedule and optimizer in Keras 3, without Etude.

    The schedule is registered, so that a model with this optimizer can be saved and loaded. Its
    values are those of the recipe in Keras's `floatx`.

    Args:
        recipe: The recipe to write.
        steps: The number of updates, to which the schedule is bound.
        task: The task, whose parameter groups cannot be written.

    Raises:
        BadValueError: If Keras has no such optimizer, or the recipe several rates, schedules of
            other values, or a schedule that is no formula of the step.

    >>> print(keras_code(Recipe(lr=0.1, optimizer="sgd", schedule="constant()"), 100))
    # Keras. Give the optimizer to model.compile(optimizer=optimizer, ...).
    import keras
    from keras import ops
    <BLANKLINE>
    <BLANKLINE>
    @keras.saving.register_keras_serializable("recipe")
    class RecipeRate(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            t = ops.cast(step, keras.config.floatx())
            return 0.1 * ops.ones_like(t)
    <BLANKLINE>
        def get_config(self):
            return {}
    <BLANKLINE>
    <BLANKLINE>
    optimizer = keras.optimizers.SGD(RecipeRate())
    # The recipe also sets evaluations=20: not applied here.
    """
    refuse_beyond_one_rate(recipe, "Keras", task)
    lines = formula(recipe.lr * shape_over(recipe, steps), KERAS)
    return "\n".join(
        [
            "# Keras. Give the optimizer to model.compile(optimizer=optimizer, ...).",
            "import keras",
            "from keras import ops",
            "",
            "",
            '@keras.saving.register_keras_serializable("recipe")',
            "class RecipeRate(keras.optimizers.schedules.LearningRateSchedule):",
            "    def __call__(self, step):",
            *_step(recipe.accumulate),
            *(f"        {line}" for line in lines),
            "",
            "    def get_config(self):",
            "        return {}",
            "",
            "",
            *_optimizer(recipe, steps),
            *remainder(recipe, ("clip_norm", "clip_value", "accumulate")),
        ]
    )


def _step(accumulate: int) -> list[str]:
    """Return the lines that read the step; with accumulation Keras counts batches, not updates."""
    if accumulate == 1:
        return ["        t = ops.cast(step, keras.config.floatx())"]
    return [
        "        # Keras counts batches here, not updates.",
        f"        t = ops.cast(ops.floor_divide(step, {accumulate}), keras.config.floatx())",
    ]


def _optimizer(recipe: Recipe, steps: int) -> list[str]:
    """Return the lines that build the optimizer."""
    choice = recipe.optimizer
    refuse_optimizer(recipe, "Keras", OPTIMIZERS)
    values: dict[str, object] = {}
    note: tuple[str, ...] = ()
    if choice.name == "sgd":
        values |= _momentum(recipe, steps)
    else:
        values["beta_1"], values["beta_2"] = choice.value("betas")
    if choice.name in ("adam", "adamw"):
        values |= {"epsilon": choice.value("eps"), "amsgrad": choice.value("amsgrad")}
        note = EPSILON
    if choice.name in ("adam", "sgd"):
        refuse_value(
            recipe, "weight_decay", 0.0, "Keras", "decays weights, and does not add to the gradient"
        )
    else:
        values["weight_decay"] = choice.value("weight_decay")
    if recipe.clip_norm is not None and recipe.clip_value is not None:
        raise BadValueError(
            f"clip_norm={recipe.clip_norm!r} and clip_value={recipe.clip_value!r}: an optimizer of "
            "Keras clips in one way: leave one out, or export it as 'torch'"
        )
    if recipe.clip_norm is not None:
        values["global_clipnorm"] = recipe.clip_norm
    if recipe.clip_value is not None:
        values["clipvalue"] = recipe.clip_value
    if recipe.accumulate > 1:
        values["gradient_accumulation_steps"] = recipe.accumulate
    told = "".join(f", {name}={value!r}" for name, value in values.items())
    return [*note, f"optimizer = keras.optimizers.{OPTIMIZERS[choice.name]}(RecipeRate(){told})"]


def _momentum(recipe: Recipe, steps: int) -> dict[str, object]:
    """Return the momentum; Keras keeps the rate in the velocity, torch does not.

    Raises:
        BadValueError: If the rate changes, so that the updates would be others.
    """
    refuse_value(recipe, "dampening", 0.0, "Keras", "has no dampening")
    momentum = recipe.optimizer.value("momentum")
    if not momentum:
        return {}
    shape = shape_over(recipe, steps)
    if difference(shape, constant(shape(0)), steps)[0] > EXACT:
        raise BadValueError(
            f"optimizer.momentum={momentum!r} with schedule {recipe.schedule!r}: Keras keeps the "
            "rate of each update in its velocity, so that at a rate that changes its updates are "
            "others than torch's. Choose adamw, a constant rate or no momentum, or export it as "
            "'torch' or 'optax'"
        )
    return {"momentum": momentum, "nesterov": recipe.optimizer.value("nesterov")}
