"""Where the first gradient's own size puts the rate of plain gradient descent."""

from __future__ import annotations

import copy
import math

import torch

from etude.randomness import random_state_kept
from etude.tasks.data import Cursor
from etude.training.evaluate import move
from etude.training.run import Run

ABOVE, BELOW, USUAL = 2.0, 2.5, -0.8
"""Decades by which plain gradient descent's centre may lie above and below the gradient's own
scale, and where it lies as a rule, in the middle of ten small tasks."""


def scaled(centre: float, run: Run) -> float:
    """Return the centre, or where the first gradient puts it if that is far away.

    The step of `sgd` is the gradient times the rate, so that a loss times s needs a rate times
    1/s. The scale is log10(L / |g|² · (1 - momentum)), Polyak's step without a lowest loss; other
    optimizers divide the gradient by its own size. The gradient is that of the first batch.

    Args:
        centre: log10 of the rate to begin around.
        run: A run before its first update; it is left as it was.
    """
    choice = run.recipe.optimizer
    if run.state.optimizer_spec.centre_share is None or run.task.alternates:
        return centre
    model = copy.deepcopy(run.model)
    weights = [p for p in model.parameters() if p.requires_grad]
    with random_state_kept(0), run.task.train.untouched(), run.autocast():
        batch = next(run.task.train.stream(run.batch_size, run.recipe.seed, Cursor()))
        loss = run.task.forward(model, move(batch, run.device))[0]
    grads = torch.autograd.grad(loss, weights, allow_unused=True)
    size = math.fsum(float(g.double().abs().square().sum()) for g in grads if g is not None)
    level = abs(float(loss.detach()))
    if not (0 < size < math.inf and 0 < level < math.inf):
        return centre
    own = math.log10(level / size * (1 - choice.value("momentum")))
    return centre if own - BELOW <= centre <= own + ABOVE else own + USUAL
