"""Edits of a recipe that can mend a run: functions (task, recipe) -> recipe, or None."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from etude import optimizers
from etude.diagnosis.remedies.remedy import Edit
from etude.errors import TaskError
from etude.optimizers.choice import OptimizerChoice
from etude.optimizers.prior import centre_of, nice
from etude.randomness import random_state_kept
from etude.recipe import CLIPPING, Recipe
from etude.recipe_spikes import Rewind, Skip, ZClip, spike_policy
from etude.schedules import parse
from etude.tasks.task import Task
from etude.training.clock import batch_size_of, clock_of
from etude.training.regularisation import largest_dropout, smoothed

WARM = 0.5
"""A schedule whose first value is below this share of its peak warms up already."""

FEWEST = 16
"""The smallest number of updates of an edited run."""


def rate_times(factor: float) -> Edit:
    """Return an edit that multiplies the learning rate.

    >>> rate_times(0.1)(None, Recipe(lr=0.02)).lr
    0.002
    """
    return lambda task, recipe: recipe.replace(lr=nice(recipe.lr * factor))


def usual_rate(task: Task, recipe: Recipe) -> Recipe:
    """Use the rate that the optimizer's prior suggests; see `etude.optimizers.prior`."""
    return recipe.replace(lr=_usual(task, recipe.optimizer))


def _usual(task: Task, optimizer: OptimizerChoice) -> float:
    """Return the centre of an optimizer's prior for the model of a task."""
    return nice(10 ** centre_of(_built(task), task.train.targets(), optimizer))


def _built(task: Task) -> nn.Module:
    with random_state_kept(0):
        return task.build()


def warm_up(percent: int) -> Edit:
    """Return an edit that multiplies the schedule by a linear warmup over a share of the run.

    A schedule that warms up already stays as it is.

    Source: Goyal et al. 2017, arXiv:1706.02677. Google's tuning playbook: a tenth at most, longer
    where the training is unstable still.
    """

    def edit(task: Task, recipe: Recipe) -> Recipe | None:
        clock = clock_of(task, recipe)
        bound = recipe.schedule.over(clock)
        if bound(0) < WARM * max(bound(step) for step in range(0, clock.horizon, 1)):
            return None
        return recipe.replace(schedule=parse(f"warmup('{percent}%') * ({recipe.schedule!r})"))

    return edit


def clip(task: Task, recipe: Recipe) -> Recipe | None:
    """Clip the gradient's norm at the 90th percentile of the norms so far.

    Source: Google's tuning playbook; AutoClip, Seetharaman et al. 2020, arXiv:2007.14469.
    """
    if any(getattr(recipe, name) is not None for name in CLIPPING):
        return None
    return None if _closure(recipe) else recipe.replace(clip_percentile=90)


def clip_to_one(task: Task, recipe: Recipe) -> Recipe | None:
    """Clip the gradient's norm at 1."""
    if any(getattr(recipe, name) is not None for name in CLIPPING):
        return None
    return None if _closure(recipe) else recipe.replace(clip_norm=1.0)


def at_spikes(text: str) -> Edit:
    """Return an edit that sets a policy at spikes; see `etude.recipe_spikes`.

    It does not apply where the recipe has one, clips by itself, or ends before the policy begins.

    >>> at_spikes("zclip")(None, Recipe(clip_norm=1.0)) is None
    True
    """
    policy = spike_policy(text)

    def edit(task: Task, recipe: Recipe) -> Recipe | None:
        if recipe.spikes is not None or any(getattr(recipe, n) is not None for n in CLIPPING):
            return None
        if isinstance(policy, ZClip):
            return None if _closure(recipe) else recipe.replace(spikes=policy)
        assert isinstance(policy, (Skip, Rewind))
        late = clock_of(task, recipe).horizon <= policy.after
        return None if late or task.alternates else recipe.replace(spikes=policy)

    return edit


def _closure(recipe: Recipe) -> bool:
    return bool(optimizers.get(recipe.optimizer.name).closure)


def initialise_by(name: str) -> Edit:
    """Return an edit that draws the weights by an initialisation of the recipe."""

    def edit(task: Task, recipe: Recipe) -> Recipe | None:
        return recipe.replace(initialisation=name)

    return edit


def batches_times(factor: float) -> Edit:
    """Return an edit of the batch size; the run sees as many samples as before."""

    def edit(task: Task, recipe: Recipe) -> Recipe | None:
        size = batch_size_of(task, recipe)
        samples = task.train.samples
        wanted = max(1, round(size * factor))
        if samples is not None:
            wanted = min(wanted, samples)
        steps = clock_of(task, recipe).horizon * size // wanted
        if wanted == size or steps < FEWEST:
            return None
        return recipe.replace(batch_size=wanted, steps=steps)

    return edit


def stop_early(task: Task, recipe: Recipe) -> Recipe | None:
    """Keep the weights with the lowest validation loss, and stop when it no longer falls."""
    return None if recipe.early_stopping is not None else recipe.replace(early_stopping=5)


def regularise(task: Task, recipe: Recipe) -> Recipe | None:
    """Raise the weight decay tenfold, to 0.1 at least; an L2 penalty where there is none."""
    if not _decays(recipe):
        return recipe.replace(l2=10 * (recipe.l2 or 1e-4))
    decay = float(recipe.optimizer.value("weight_decay") or 0.0)
    return _with(recipe, weight_decay=max(0.1, 10 * decay))


def smooth_labels(task: Task, recipe: Recipe) -> Recipe | None:
    """Spread a tenth of each label over the classes, where the loss is a cross-entropy.

    Source: Szegedy et al. 2016, arXiv:1512.00567.
    """
    if recipe.label_smoothing:
        return None
    try:
        smoothed(task, 0.1)
    except TaskError:
        return None
    return recipe.replace(label_smoothing=0.1)


def regularise_less(task: Task, recipe: Recipe) -> Recipe | None:
    """Remove weight decay, penalties, label smoothing, and every dropout, also the model's own."""
    changes: dict[str, Any] = dict.fromkeys(("l1", "l2", "activity", "label_smoothing"))
    if recipe.dropout or (recipe.dropout is None and largest_dropout(_built(task)) > 0):
        changes["dropout"] = 0.0
    edited = recipe.replace(**changes)
    if _decays(recipe) and recipe.optimizer.value("weight_decay"):
        edited = _with(edited, weight_decay=0.0)
    return None if edited == recipe else edited


def optimise_with(name: str, **hyperparameters: float) -> Edit:
    """Return an edit to another optimizer, at the rate that its prior suggests."""

    def edit(task: Task, recipe: Recipe) -> Recipe | None:
        if recipe.optimizer.name == name:
            return None
        choice = OptimizerChoice.of({"name": name, **hyperparameters})
        return recipe.replace(lr=_usual(task, choice), optimizer=choice, schedules={})

    return edit


def _decays(recipe: Recipe) -> bool:
    return "weight_decay" in optimizers.get(recipe.optimizer.name).hyperparameters


def _with(recipe: Recipe, **hyperparameters: float) -> Recipe:
    chosen = recipe.optimizer
    table = {**chosen.hyperparameters, **hyperparameters}
    return recipe.replace(optimizer=replace(chosen, hyperparameters=table))
