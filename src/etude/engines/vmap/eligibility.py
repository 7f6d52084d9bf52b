"""Determines which runs can be stacked, and which of them in the same stack."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import nn
from torch.nn.utils import parametrize

from etude.engines.vmap.optimizers import RULES, flags_of
from etude.schedules import Schedule
from etude.tasks.sources.data import TensorData
from etude.training.observers import refusal
from etude.training.run import Run


def why_not_stackable(run: Run) -> str:
    """Return why a run cannot be stacked; empty if it can.

    An operation that vmap does not support, or a result that differs from the loop's, is found
    later, by the first stacked updates.
    """
    recipe, name = run.recipe, run.recipe.optimizer.name
    if run.state.world.size > 1:
        return f"{run.state.world.size} processes train each run together"
    if run.state.optimizer_spec.stacked not in RULES:
        return f"the optimizer {name} has no stacked formula"
    if run.task.alternates:
        return "the step yields: parts of the model take turns"
    if run.task.param_groups is not None:
        return "the task has parameter groups of its own"
    if recipe.precision != "float32":
        return f"precision={recipe.precision!r} is not stacked"
    if recipe.clip_percentile is not None:
        return "clip_percentile depends on each run's earlier gradient norms"
    if recipe.spikes is not None:
        return f"spikes={recipe.spikes!r} depends on each run's earlier losses and gradients"
    if recipe.activity is not None:
        return "activity= uses hooks on the modules of one run"
    state = run.state
    schedules = (state.lr_schedule, *state.hyperparameter_schedules.values())
    if any(schedule.has_feedback for schedule in schedules):
        return "a schedule reacts to one run's validation loss"
    if reason := refusal(run.observers, "vmap"):
        return reason
    if not isinstance(run.task.train, TensorData):
        return "the training data is not in tensors"
    return _rates(run) or _model(run.model)


def _rates(run: Run) -> str:
    if run.state.rates is None:
        return ""
    if run.state.rates.plan.trust is not None:
        return f"{run.state.rates.plan.trust.what} is computed from the tensors of one run"
    if any(isinstance(row.multiplier, Schedule) for row in run.state.rates.plan.rows):
        return "a multiplier of the rate follows a schedule"
    return ""


def _model(model: nn.Module) -> str:
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module):
            return f"{name or 'the model'} is parametrized"
        if getattr(module, "sparse", False):
            return f"{name} has sparse gradients"
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            return f"{name} is of type {str(parameter.dtype).removeprefix('torch.')}"
    return ""


def kind(run: Run) -> Hashable:
    """Return the properties that runs in one stack must have in common."""
    recipe = run.recipe
    known = run.state.optimizer_spec.stacked in RULES
    return (
        recipe.optimizer.name,
        tuple(flags_of(recipe.optimizer, run.state.hyperparameter_schedules).items())
        if known
        else (),
        run.batch_size,
        recipe.accumulate,
        recipe.label_smoothing,
        recipe.dropout,
        *(v is None for v in (recipe.clip_norm, recipe.clip_value, recipe.clip_adaptive)),
        recipe.l1 is None and recipe.l2 is None,
        str(run.device),
        id(run.task.train),
        id(run.task.loss),
        id(run.task.step),
        repr(run.model),
        tuple((n, tuple(p.shape), p.requires_grad) for n, p in run.model.named_parameters()),
        tuple((n, tuple(b.shape), b.dtype) for n, b in run.model.named_buffers()),
    )
