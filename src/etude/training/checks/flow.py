"""Traces how a task's loss depends on its model, for recipes whose choices need it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from etude import optimizers
from etude.errors import EtudeError
from etude.layerwise.flow import Flow, follow
from etude.recipe import Recipe
from etude.tasks.sources.data import Cursor
from etude.tasks.task import Task
from etude.training.evaluation.evaluate import move
from etude.training.machine.eager import eagerly


@eagerly()
def flow_of(
    task: Task,
    recipe: Recipe,
    model: nn.Module,
    batch_size: int,
    autocast: AbstractContextManager[Any],
    *,
    asked: bool = False,
) -> Flow | None:
    """Return how the loss of the first batch is computed from the parameters.

    The model does not change. Returns None if nothing needs the flow, if parts are updated in turn
    (each has its own loss), or if the loss cannot be traced or computed. The check of the run
    reports an error in the latter case.

    Args:
        task: The task.
        recipe: The recipe; its optimizer and multipliers determine whether the flow is needed.
        model: The network.
        batch_size: The number of samples in the batch.
        autocast: The context of the forward pass.
        asked: Whether to trace the loss in any case.
    """
    asked = asked or optimizers.get(recipe.optimizer.name).chooses_matrices
    asked = asked or (recipe.lr_mult is not None and recipe.lr_mult.needs_flow)
    if not asked or task.alternates:
        return None
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        with task.train.untouched(), autocast:
            batch = move(next(task.train.stream(batch_size, recipe.seed, Cursor())), device)
            return follow(model, lambda twin: task.forward(twin, batch)[0], batch)
    except (EtudeError, RuntimeError, TypeError, ValueError):
        return None
