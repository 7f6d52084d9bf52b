"""A recipe at another batch size: the rules that say what becomes of its rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from etude import optimizers
from etude.errors import BadValueError, check_whole
from etude.recipe import Recipe
from etude.schedules import Clock, Schedule

POINTS = 101
"""Places along a run at which two schedules are compared."""

CLOSE, ASTRAY = 0.05, 4
"""Difference, as a share of the peak, that does not count; and places that may differ by more:
a warmup or a step of the shorter run is rounded to whole updates."""


def linear(recipe: Recipe, batch_size: int) -> Recipe:
    """Return the recipe at another batch size, its rate scaled alike.

        lr' = lr · B' / B

    Holds for SGD while the batch is well below the gradient noise scale.

    Args:
        recipe: One that names its batch size.
        batch_size: B'.

    Raises:
        BadValueError: If the recipe names no batch size, or its schedule cannot be carried over.

    Source: Goyal et al. 2017, arXiv:1706.02677.

    >>> linear(Recipe(lr=0.1, batch_size=64, steps=1_000), 256).plain()["lr"]
    0.4
    """
    return _at(recipe, batch_size, _ratio(recipe, batch_size))


def square_root(recipe: Recipe, batch_size: int, *, moments: bool = False) -> Recipe:
    """Return the recipe at another batch size, its rate scaled by the root of the ratio.

        lr' = lr · √(B' / B);   with `moments`: 1 - β' = (1 - β) B' / B,  ε' = ε / √(B' / B)

    Holds for Adam and its relatives, whose step does not grow with the gradient.

    Args:
        recipe: One that names its batch size.
        batch_size: B'.
        moments: Whether to carry the betas and ε over too, so that the averages reach over as
            many samples as before.

    Raises:
        BadValueError: If the recipe names no batch size, its schedule cannot be carried over, or
            a beta would fall below 0.

    Source: Krizhevsky 2014, arXiv:1404.5997; the moments: Malladi et al. 2022, arXiv:2205.10287.

    >>> square_root(Recipe(lr=0.1, batch_size=64, steps=1_000), 256).plain()["lr"]
    0.2
    """
    ratio = _ratio(recipe, batch_size)
    scaled = _at(recipe, batch_size, math.sqrt(ratio))
    return _with_moments(scaled, ratio) if moments else scaled


def noise_scale(recipe: Recipe, batch_size: int, noise: float, *, exponent: float = 1.0) -> Recipe:
    """Return the recipe at another batch size, its rate scaled by how much signal a batch has.

        lr' = lr · ((1 + N / B) / (1 + N / B'))^α

    Linear while B and B' are far below N, constant far above it.

    Args:
        recipe: One that names its batch size.
        batch_size: B'.
        noise: N, the gradient noise scale in samples; `etude.measure.noise_scale` measures it.
        exponent: α: 1 for SGD, 0.5 for Adam and its relatives.

    Raises:
        BadValueError: As `linear`; or if the noise is not positive and finite.

    Source: McCandlish et al. 2018, arXiv:1812.06162, equation 2.6 and appendix.

    >>> noise_scale(Recipe(lr=0.1, batch_size=100, steps=1_000), 300, noise=300).lr
    0.2
    """
    if not 0 < noise < math.inf:
        raise BadValueError(
            f"noise={noise!r} is out of bounds: give a finite number > 0, in samples"
        )
    if not 0 < exponent <= 1:
        raise BadValueError(f"exponent={exponent!r} is out of bounds: give a number in (0, 1]")
    _ratio(recipe, batch_size)
    before, after = (_samples(recipe, size) for size in (recipe.batch_size, batch_size))
    return _at(recipe, batch_size, ((1 + noise / before) / (1 + noise / after)) ** exponent)


RULES: Mapping[str, Callable[..., Recipe]] = MappingProxyType(
    {"linear": linear, "square_root": square_root, "noise_scale": noise_scale}
)
"""Name -> (recipe, batch size) -> recipe."""


def _samples(recipe: Recipe, batch_size: object) -> int:
    assert isinstance(batch_size, int)
    return batch_size * recipe.accumulate


def _ratio(recipe: Recipe, batch_size: int) -> float:
    batch_size = check_whole("batch_size", batch_size, 1)
    if not isinstance(recipe.batch_size, int):
        raise BadValueError(
            f"the recipe's batch_size is {recipe.batch_size!r}, from which no ratio follows: name "
            "it first, recipe.replace(batch_size=64)"
        )
    return batch_size / recipe.batch_size


def _at(recipe: Recipe, batch_size: int, factor: float) -> Recipe:
    """Return the recipe at another batch size and rate, over as many samples as before."""
    changes = {"batch_size": batch_size, "lr": recipe.lr * factor}
    if not isinstance(recipe.steps, int):
        return recipe.replace(**changes)  # '20 epochs' is as many samples at any batch size
    ratio = batch_size / int(recipe.batch_size or 1)
    steps = max(1, round(recipe.steps / ratio))
    schedules = {
        name: carried(name, schedule, recipe.steps, steps)
        for name, schedule in {"schedule": recipe.schedule, **recipe.schedules}.items()
    }
    shape = schedules.pop("schedule")
    return recipe.replace(**changes, steps=steps, schedule=shape, schedules=schedules)


def carried(name: str, schedule: Schedule, before: int, after: int) -> Schedule:
    """Return a schedule that runs over `after` updates as this one over `before`."""
    if _alike(schedule, schedule, before, after):
        return schedule
    stretched = schedule.stretch(after / before)
    if _alike(schedule, stretched, before, after):
        return stretched
    raise BadValueError(
        f"{name}={schedule!r} cannot be carried from {before} to {after} updates: write its "
        "durations as shares of the run, such as '5%'"
    )


def _alike(one: Schedule, other: Schedule, before: int, after: int) -> bool:
    first, second = one.over(Clock(horizon=before)), other.over(Clock(horizon=after))
    shares = [i / POINTS for i in range(POINTS)]
    values = [(first(u * before), second(u * after)) for u in shares]
    largest = max(abs(a) for a, _ in values) or 1.0
    return sum(abs(a - b) > CLOSE * largest for a, b in values) <= ASTRAY


def _with_moments(recipe: Recipe, ratio: float) -> Recipe:
    row = optimizers.get(recipe.optimizer.name)
    if "betas" not in row.hyperparameters:
        raise BadValueError(f"moments=True: {row.name} has no betas to carry over")
    betas = tuple(1 - (1 - beta) * ratio for beta in recipe.optimizer.value("betas"))
    if min(betas) < 0:
        raise BadValueError(
            f"moments=True: at {ratio:g} times the batch the betas would be "
            f"{betas[0]:.3g} and {betas[1]:.3g}: take a smaller batch, or leave moments out"
        )
    values = {**recipe.optimizer.hyperparameters, "betas": betas}
    if "eps" in row.hyperparameters:
        values["eps"] = recipe.optimizer.value("eps") / math.sqrt(ratio)
    return recipe.replace(optimizer={"name": row.name, **values})
