"""Writes a recipe's schedule as `torch.optim.lr_scheduler.LambdaLR`, without Etude."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etude import optimizers
from etude.errors import BadValueError
from etude.export.formula import NUMPY, formula
from etude.export.target import refuse_beyond_one_rate, remainder, shape_over
from etude.recipe import Recipe

if TYPE_CHECKING:
    from etude.tasks.task import Task


def lambda_lr_code(recipe: Recipe, steps: int, *, task: Task | None = None) -> str:
    """Return code that builds a recipe's optimizer of torch, and its schedule as `LambdaLR`.

    It needs torch and NumPy, not Etude. Call `scheduler.step()` after each update.

    Args:
        recipe: The recipe to write.
        steps: The number of updates, to which the schedule is bound.
        task: The task, whose parameter groups cannot be written.

    Raises:
        BadValueError: If the optimizer is not one of torch's own, or the recipe has several rates,
            schedules of other values, or a schedule that is no formula of the step.

    >>> print(lambda_lr_code(Recipe(lr=0.1, optimizer="sgd", schedule="linear()"), 100))
    # torch. You define: model. Call scheduler.step() after each update.
    import numpy as np
    import torch
    <BLANKLINE>
    <BLANKLINE>
    def scale(step):
        t = np.float64(step)
        return (100 - np.minimum(t, 100)) / 100
    <BLANKLINE>
    <BLANKLINE>
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: float(scale(step)))
    # The recipe also sets evaluations=20: not applied here.
    """
    refuse_beyond_one_rate(recipe, "LambdaLR", task)
    row = optimizers.get(recipe.optimizer.name)
    if row.module != "torch.optim":
        raise BadValueError(
            f"optimizer={row.name!r} is not one of torch's own: choose one of torch.optim, or "
            "export it as 'torch'"
        )
    values = "".join(f", {k}={v!r}" for k, v in recipe.optimizer.hyperparameters.items())
    built = f"torch.optim.{row.attribute}(model.parameters(), lr={recipe.lr!r}{values})"
    return "\n".join(
        [
            "# torch. You define: model. Call scheduler.step() after each update.",
            "import numpy as np",
            "import torch",
            "",
            "",
            "def scale(step):",
            "    t = np.float64(step)",
            *(f"    {line}" for line in formula(shape_over(recipe, steps), NUMPY)),
            "",
            "",
            f"optimizer = {built}",
            "scheduler = torch.optim.lr_scheduler.LambdaLR("
            "optimizer, lambda step: float(scale(step)))",
            *remainder(recipe),
        ]
    )
