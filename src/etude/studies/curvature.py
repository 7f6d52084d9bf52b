"""The curvature before training, measured once for each network, optimizer and batch size.

It tells at which rate a step becomes unstable where training begins: 2/λ for gradient descent,
with the largest eigenvalue λ of the Hessian. Rate, schedule, clipping and length do not change it,
so one trial stands for all that differ in them alone. Optimizers whose divisor does not exist
before the first update, such as Adam, have no such rate: nothing is measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from etude import tasks
from etude.errors import EtudeError
from etude.measure.sharpness import sharpness
from etude.measure.threshold import stability
from etude.randomness import random_state_kept
from etude.recipe import Recipe
from etude.studies.trials import PlannedTrial
from etude.tasks.task import Task
from etude.training.run import Run

SAMPLES, PRODUCTS, TOLERANCE = 256, 12, 0.05
"""How many samples the Hessian is of, rounded up to whole batches; the largest number of products
with it; the largest error of λ as a share of it. The edge itself is only known to the distance of
two rates, so that this is precise enough."""

LARGEST = 2_000_000
"""The largest number of parameters: the products' vectors are kept in memory."""


def stand_ins(planned: Sequence[PlannedTrial]) -> frozenset[int]:
    """Return the numbers of the trials at which the curvature is measured, one for each family.

    They follow from the plan alone, so that any worker measures the same.
    """
    first: dict[tuple[str, str, str], int] = {}
    for number, one in enumerate(planned):
        family = one.ref.key, repr(one.recipe.optimizer), str(one.recipe.batch_size)
        first.setdefault(family, number)
    return frozenset(first.values())


def curvature_of(planned: PlannedTrial) -> dict[str, float]:
    """Return the `curvature` of a planned trial; nothing if its task cannot be built here."""
    ref = planned.ref
    try:
        with random_state_kept(0):
            task = tasks.load(ref.reference, **ref.options)
    except Exception:  # noqa: BLE001  (the user's own code can raise anything)
        return {}
    return curvature(task, planned.recipe)


def curvature(task: Task, recipe: Recipe) -> dict[str, float]:
    """Return `sharpness`, the largest eigenvalue of the Hessian before training, and its `limit`.

    Returns:
        Nothing where the limit is not known: the optimizer has none before its first update, the
        network is too large, parts of it take turns, or it has no second derivatives.

    >>> from etude.tasks import get
    >>> found = curvature(get("cancer-mlp"), Recipe(optimizer="sgd", lr=0.1, steps=10))
    >>> abs(found["limit"] * found["sharpness"] - 2) < 1e-6
    True
    >>> curvature(get("cancer-mlp"), Recipe(optimizer="adam", lr=0.1, steps=10))
    {}
    """
    try:
        run = Run(task, recipe)
        size = sum(p.numel() for p in run.parameters)
        if size > LARGEST or task.alternates or stability(run).threshold is None:
            return {}
        found = sharpness(run, samples=SAMPLES, tolerance=TOLERANCE, iterations=PRODUCTS)
    except (EtudeError, RuntimeError):  # no second derivatives, or no memory: it is not known
        return {}
    if found.limit is None or not math.isfinite(found.limit):
        return {}
    return {"sharpness": found.value, "limit": found.limit}
