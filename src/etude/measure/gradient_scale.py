"""Estimates the rate of plain gradient descent from the size of the first gradient."""

from __future__ import annotations

import math

import torch

from etude.model_copy import copy_model
from etude.randomness import random_state_kept
from etude.tasks.sources.data import Cursor
from etude.training.evaluation.evaluate import move
from etude.training.machine.eager import eagerly
from etude.training.run import Run

ABOVE, BELOW, USUAL = 2.0, 2.5, -0.8
"""Decades by which the centre of plain gradient descent may be above and below the gradient's
scale, and the usual difference from it: the median of ten small tasks."""


@eagerly()
def scaled(centre: float, run: Run) -> float:
    """Return the centre, or an estimate from the first gradient if the two are far apart.

    The step of `sgd` is the rate times the gradient, so that a loss that is multiplied by s needs a
    rate divided by s. The estimate is log10(L / |g|² · (1 - momentum)), Polyak's step for a lowest
    loss of 0, with the gradient g of the first batch. For optimizers that divide the gradient by
    its size, the centre is returned.

    Args:
        centre: log10 of the rate around which a search begins.
        run: A run before its first update; it is not changed.
    """
    choice = run.recipe.optimizer
    if run.state.optimizer_spec.centre_share is None or run.task.alternates:
        return centre
    model = copy_model(run.model)
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
