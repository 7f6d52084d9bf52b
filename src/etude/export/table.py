"""The programs for which a recipe can be written, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from etude.errors import BadTypeError, BadValueError, shown, unknown_name
from etude.export.keras import keras_code
from etude.export.lambda_lr import lambda_lr_code
from etude.export.nanogpt import nanogpt_config
from etude.export.optax import optax_code
from etude.export.pytorch import pytorch_code
from etude.export.torchtitan import torchtitan_code, torchtitan_toml
from etude.export.trainer_arguments import axolotl_yaml, training_arguments
from etude.recipe import Recipe

if TYPE_CHECKING:
    from etude.tasks.task import Task


@dataclass(frozen=True)
class Target:
    """A program for which a recipe can be written.

    Attributes:
        write: Writes it.
        what: What is written.
        curves: Whether its configuration names a few curves, so that the nearest can be asked for.
    """

    write: Callable[..., str]
    what: str
    curves: bool = False


TARGETS = {
    "torch": Target(pytorch_code, "a PyTorch loop; takes every recipe, and needs Etude"),
    "lambda-lr": Target(lambda_lr_code, "the schedule as LambdaLR, without Etude"),
    "transformers": Target(training_arguments, "TrainingArguments of transformers", curves=True),
    "unsloth": Target(
        partial(training_arguments, target="unsloth"), "SFTConfig of TRL and Unsloth", curves=True
    ),
    "axolotl": Target(axolotl_yaml, "YAML of Axolotl", curves=True),
    "optax": Target(optax_code, "schedule and optimizer of optax, without Etude"),
    "keras": Target(keras_code, "schedule and optimizer of Keras, without Etude"),
    "nanogpt": Target(nanogpt_config, "a configuration file of nanoGPT", curves=True),
    "torchtitan": Target(torchtitan_code, "a configuration of torchtitan in Python", curves=True),
    "torchtitan-toml": Target(torchtitan_toml, "TOML of torchtitan up to 0.2.2", curves=True),
}
"""The programs, by the name that `export_code` and `etude export --as` take."""


def export_code(
    recipe: Recipe,
    target: str,
    steps: int | None = None,
    *,
    task: Task | None = None,
    nearest: bool = False,
) -> str:
    """Return a recipe as code or configuration for another program.

    What the program cannot express is refused: an optimizer with other updates, several rates,
    schedules of other values, a schedule that is not in its list. Fields that do not change the
    rate or the optimizer, such as dropout, are listed in a comment at the end.

    Args:
        recipe: The recipe to write.
        target: 'torch', 'lambda-lr', 'transformers', 'unsloth', 'axolotl', 'optax', 'keras',
            'nanogpt', 'torchtitan' or 'torchtitan-toml'.
        steps: The number of updates; None takes the recipe's, where it is a number.
        task: The task, for its step and its parameter groups.
        nearest: For programs that name a few curves: whether to take the nearest, and to say in a
            comment by how much it differs.

    Raises:
        UnknownNameError: If there is no such target.
        BadValueError: If the program cannot express the recipe; the message names the value and
            the fix.

    >>> recipe = Recipe(lr=0.001, schedule="warmup(9, start=0.1) >> cosine()", steps=1000)
    >>> export_code(recipe, "nanogpt").splitlines()[1:4]
    ['learning_rate = 0.001', 'decay_lr = True', 'warmup_iters = 9']
    """
    if target not in TARGETS:
        raise unknown_name("target of an export", target, TARGETS)
    row = TARGETS[target]
    length = recipe.steps if steps is None else steps
    if isinstance(length, str):
        raise BadValueError(
            f"the recipe's length is {length!r}, and how many updates that are depends on the "
            "data: give the number of updates as steps="
        )
    if isinstance(length, bool) or not isinstance(length, int):
        raise BadTypeError(f"steps={shown(steps)}: give the number of updates")
    if length < 1:
        raise BadValueError(f"steps={length:,} is out of bounds: give at least 1")
    if not row.curves:
        if nearest:
            raise BadValueError(
                f"nearest=True: {target} takes every schedule exactly: leave it out"
            )
        return row.write(recipe, length, task=task)
    return row.write(recipe, length, task=task, nearest=nearest)
