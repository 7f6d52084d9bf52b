"""How many validation samples rates are compared on: as many as the comparison is worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import torch

from etude.errors import BadTypeError, BadValueError, as_whole, shown
from etude.randomness import derive_seed
from etude.recipe import Recipe
from etude.tasks.task import Task
from etude.training.clock import batch_size_of, clock_of
from etude.training.evaluation.evaluate import PARTS

ValidSamples: TypeAlias = int | Literal["auto", "all"] | None

SHARE = 1 / 5
"""Share of the work, counted in forward passes, that evaluations may take."""

GRADIENT = 3
"""Forward passes that the gradient of one sample costs: the backward pass is about two."""

PAUSES = 8
"""Evaluations of a whole trial besides those of its recipe: its pauses, and the mean of the
weights at four of them."""

KEPT = 2_048
"""Validation samples up to which a set is never cut."""

LEAST = 256
"""Validation samples to which a set is cut at least: 16 in each slice from which the noise of a
comparison is estimated. A run so short that they are more than a fifth of its work says so."""

UPDATES = 20
"""Updates of a run for each of its evaluations, at least. An evaluation of a small network takes as
long as 3 to 5 of its updates, however few its samples: five are a fifth of both with 20 updates."""


def affordable(task: Task, recipe: Recipe, least: int = LEAST) -> int:
    """Return how many validation samples the evaluations of one run may have.

        n = max(least, 3/5 · updates · samples in an update / evaluations)

    so that the evaluations' forward passes take at most a fifth of the work of the run's
    gradients. Both are counted, not timed: the same recipe has the same bits on any machine. A run
    that is too short for its own evaluations is evaluated at its pauses alone, which leaves more
    for each; see `only_at_pauses`.

    Args:
        task: The task.
        recipe: The recipe, whose length and number of evaluations count.
        least: The samples to which a set is cut at least.

    >>> from torch.nn import Linear
    >>> from torch.nn.functional import mse_loss
    >>> x = torch.zeros(100_000, 1)
    >>> task = Task(Linear(1, 1), (x, x), loss=mse_loss)
    >>> affordable(task, Recipe(steps=40, batch_size=64))
    256
    >>> affordable(task, Recipe(steps=100_000, batch_size=64))
    132413
    """
    count = 1 + PAUSES
    if not only_at_pauses(task, recipe, least):
        count += recipe.evaluations
    return max(least, _passes(task, recipe) // count)


def only_at_pauses(task: Task, recipe: Recipe, least: int = LEAST) -> bool:
    """Return whether a run is too short for its own evaluations of a part of a large set.

    It is where they leave fewer than `least` samples for each, or where the run has fewer than 20
    updates for each: an evaluation of a small network takes as long as some updates, however few
    its samples.

    Args:
        task: The task.
        recipe: The recipe, whose length and number of evaluations count.
        least: The samples to which a set is cut at least.

    >>> from torch.nn import Linear
    >>> from torch.nn.functional import mse_loss
    >>> x = torch.zeros(100_000, 1)
    >>> task = Task(Linear(1, 1), (x, x), loss=mse_loss)
    >>> [only_at_pauses(task, Recipe(steps=n, batch_size=64)) for n in (40, 579, 580)]
    [True, True, False]
    """
    count = recipe.evaluations + 1 + PAUSES
    updates = clock_of(task, recipe).horizon * recipe.accumulate
    return _passes(task, recipe) // count < least or updates < UPDATES * count


def _passes(task: Task, recipe: Recipe) -> int:
    """Return the forward passes of a sample that the evaluations of a run may cost in all."""
    samples: int = clock_of(task, recipe).horizon * batch_size_of(task, recipe) * recipe.accumulate
    return math.floor(SHARE * GRADIENT * samples)


def leaves_room(gradients: float, evaluated: int, samples: int) -> bool:
    """Return whether one more evaluation keeps all of them within a fifth of the whole work.

        evaluated + samples <= 1/4 · 3 · gradients

    with a gradient as three forward passes. `affordable` leaves a fifth of the right side for it.

    Args:
        gradients: The samples whose gradients were computed.
        evaluated: The samples that were evaluated.
        samples: Those of one more evaluation.

    >>> leaves_room(1_000, 600, 150), leaves_room(1_000, 600, 151)
    (True, False)
    """
    return evaluated + samples <= SHARE / (1 - SHARE) * GRADIENT * gradients


def compared_on(
    task: Task,
    recipe: Recipe,
    wanted: ValidSamples = "auto",
    others: Sequence[Recipe] = (),
    least: int = LEAST,
) -> Task:
    """Return the task with the validation samples on which its trials are compared.

    The samples are drawn without regard to the recipe, so that all trials are compared on the same
    ones: evenly over the data, whose order they keep.

    Args:
        task: The task.
        recipe: The recipe that is tuned.
        wanted: A number of samples; 'all' or None; or 'auto' for what `affordable` returns. 'auto'
            keeps all of up to 2,048 samples, all where evaluations change the run (early stopping,
            schedules with feedback), and all of a stream, or of a DataLoader with an order of its
            own.
        others: More recipes that are compared.
        least: The samples to which 'auto' cuts a set at least.

    Raises:
        BadTypeError: If `wanted` is no number of samples, or the data cannot be indexed.
        BadValueError: If it is out of bounds, or the recipe's evaluations change the run.
    """
    wanted = checked_wanted(wanted)
    data = task.valid
    if wanted is None or wanted == "all":
        return task
    listening = next((why for one in (recipe, *others) if (why := listens(one))), "")
    if wanted == "auto":
        small = data.samples is None or data.samples <= max(KEPT, least)
        if listening or small or data.why_whole():
            return task
        wanted = affordable(task, recipe, least)
    if data.samples is not None and wanted >= data.samples:
        return task
    if data.samples is None or (why := data.why_whole()):
        why = why if data.samples is not None else "its samples are not counted"
        raise BadTypeError(
            f"valid_samples={wanted} needs validation data of which a part can be taken, and "
            f"{why}: give tensors, a Dataset or a DataLoader in its plain order, or 'all'"
        )
    if listening:
        raise BadValueError(
            f"valid_samples={wanted}: {listening} hears every evaluation, so the run would differ "
            "from one that is evaluated on all samples: give 'all'"
        )
    rows = drawn(data.samples, wanted)
    origin = None if task.origin is None else task.origin.compared_on(rows)
    return replace(task, valid=data.held(rows)).known_as(task.ref, origin)


def checked_wanted(wanted: Any) -> ValidSamples:
    """Return how many samples are wanted; a number of any library becomes a plain one.

    Raises:
        BadTypeError: If it is neither a whole number nor 'auto', 'all' or None.
        BadValueError: If it is too small to tell the noise of a comparison.
    """
    if wanted is None or (isinstance(wanted, str) and wanted in ("auto", "all")):
        return wanted  # type: ignore[return-value]
    count = as_whole(wanted)
    if count is None:
        raise BadTypeError(
            f"valid_samples={shown(wanted)}: give a whole number of samples, 'auto' or 'all'"
        )
    if count < PARTS:
        raise BadValueError(
            f"valid_samples={count} is out of bounds: give at least {PARTS}, one for each slice "
            "from which the noise of a comparison is estimated"
        )
    return count


def listens(recipe: Recipe) -> str:
    """Return what in a recipe changes the run after an evaluation; empty if nothing does.

    >>> listens(Recipe()), listens(Recipe(early_stopping=3))
    ('', 'early_stopping')
    """
    if recipe.early_stopping is not None:
        return "early_stopping"
    schedules = {"schedule": recipe.schedule, **recipe.schedules}
    return next((f"the {name} {s!r}" for name, s in schedules.items() if s.signals), "")


def drawn(samples: int, count: int) -> torch.Tensor:
    """Return the rows of a subset, ascending: one at random from each of `count` equal stretches.

    A set that is sorted, by class or by date, keeps its proportions.

    Args:
        samples: All samples.
        count: How many to draw.

    >>> len(drawn(1_000, 100)), int((drawn(1_000, 160) < 500).sum())
    (100, 80)
    """
    edges = samples * torch.arange(count + 1) // count
    generator = torch.Generator().manual_seed(derive_seed(0, "valid_samples"))
    places = torch.rand(count, generator=generator, dtype=torch.float64)
    return edges[:-1] + (places * edges.diff()).long()
