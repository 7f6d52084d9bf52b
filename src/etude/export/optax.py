"""Writes a recipe for optax: the schedule as a function of the count, and the optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etude.export.formula import JAX, formula
from etude.export.target import (
    refuse_beyond_one_rate,
    refuse_optimizer,
    refuse_value,
    remainder,
    shape_over,
)
from etude.recipe import Recipe

if TYPE_CHECKING:
    from etude.tasks.task import Task

OPTIMIZERS = ("adam", "adamax", "adamw", "lion", "rmsprop", "sgd")
"""Those that make the same updates in optax as in torch."""


def optax_code(recipe: Recipe, steps: int, *, task: Task | None = None) -> str:
    """Return code that builds a recipe's schedule and optimizer in optax, without Etude.

    The schedule is a function of the count that works under `jit`; its values are those of the
    recipe in jax's default precision. `torch.nn.utils.clip_grad_norm_` adds 1e-6 to the norm, which
    `optax.clip_by_global_norm` does not.

    Args:
        recipe: The recipe to write.
        steps: The number of updates, to which the schedule is bound.
        task: The task, whose parameter groups cannot be written.

    Raises:
        BadValueError: If optax has no such optimizer, or the recipe several rates, schedules of
            other values, or a schedule that is no formula of the step.

    >>> print(optax_code(Recipe(lr=0.1, optimizer="sgd", schedule="constant()"), 100))
    # optax. You define: the parameters, and the gradients of each update.
    import jax.numpy as jnp
    import optax
    <BLANKLINE>
    <BLANKLINE>
    def learning_rate(count):
        t = jnp.asarray(count, dtype=float)
        return 0.1 * jnp.ones_like(t)
    <BLANKLINE>
    <BLANKLINE>
    optimizer = optax.sgd(learning_rate)
    # The recipe also sets evaluations=20: not applied here.
    """
    refuse_beyond_one_rate(recipe, "optax", task)
    lines = formula(recipe.lr * shape_over(recipe, steps), JAX)
    applied = ("clip_norm", "clip_value", "accumulate")
    return "\n".join(
        [
            "# optax. You define: the parameters, and the gradients of each update.",
            "import jax.numpy as jnp",
            "import optax",
            "",
            "",
            "def learning_rate(count):",
            "    t = jnp.asarray(count, dtype=float)",
            *(f"    {line}" for line in lines),
            "",
            "",
            *_optimizer(recipe),
            *remainder(recipe, applied),
        ]
    )


def _optimizer(recipe: Recipe) -> list[str]:
    """Return the lines that build the optimizer: clipping, decay, the rule, accumulation."""
    chain = []
    if recipe.clip_norm is not None:
        chain.append(f"optax.clip_by_global_norm({recipe.clip_norm!r})")
    if recipe.clip_value is not None:
        chain.append(f"optax.clip({recipe.clip_value!r})")
    rule, decay = _rule(recipe)
    if decay:
        chain.append(f"optax.add_decayed_weights({decay!r})")
    chain.append(rule)
    if len(chain) == 1:
        lines = [f"optimizer = {rule}"]
    else:
        lines = ["optimizer = optax.chain(", *(f"    {one}," for one in chain), ")"]
    if recipe.accumulate > 1:
        lines.append(
            f"optimizer = optax.MultiSteps(optimizer, every_k_schedule={recipe.accumulate})"
        )
    return lines


def _rule(recipe: Recipe) -> tuple[str, float]:
    """Return the call that builds the rule, and the weight decay that is added to the gradient."""
    choice = recipe.optimizer
    refuse_optimizer(recipe, "optax", OPTIMIZERS)
    if choice.name in ("adam", "adamw"):
        refuse_value(recipe, "amsgrad", False, "optax", "keeps another maximum for amsgrad")
    if choice.name == "rmsprop":
        refuse_value(recipe, "momentum", 0.0, "optax", "puts the rate inside of this momentum")
    if choice.name == "sgd":
        refuse_value(recipe, "dampening", 0.0, "optax", "has no dampening")
    values: dict[str, object] = {}
    if choice.name in ("adam", "adamax", "adamw", "lion"):
        values["b1"], values["b2"] = choice.value("betas")
    if choice.name == "rmsprop":
        values |= {"decay": choice.value("alpha"), "eps_in_sqrt": False}
        values["centered"] = choice.value("centered")
    if choice.name == "sgd" and choice.value("momentum"):
        values |= {"momentum": choice.value("momentum"), "nesterov": choice.value("nesterov")}
    if choice.name in ("adam", "adamax", "adamw", "rmsprop"):
        values["eps"] = choice.value("eps")
    decay = float(choice.value("weight_decay"))
    if choice.name in ("adamw", "lion"):
        values["weight_decay"], decay = decay, 0.0
    told = "".join(f", {name}={value!r}" for name, value in values.items())
    return f"optax.{choice.name}(learning_rate{told})", decay
