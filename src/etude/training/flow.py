"""The flow of a task's loss through its model, where a recipe's choices depend on it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from etude import optimizers
from etude.errors import EtudeError
from etude.layerwise.flow import Flow, follow
from etude.recipe import Recipe
from etude.tasks.data import Cursor
from etude.tasks.task import Task
from etude.training.evaluate import move


def flow_of(
    task: Task,
    recipe: Recipe,
    model: nn.Module,
    batch_size: int,
    autocast: AbstractContextManager[Any],
    *,
    asked: bool = False,
) -> Flow | None:
    """Return how the loss of the first batch comes about; the model is left as it is.

    None where nothing asks for it, where parts take turns (each has a loss of its own), or where
    the loss cannot be followed, or computed: what is wrong then is found by the run's own check.

    Args:
        task: What to learn.
        recipe: How; its optimizer and multipliers say whether the flow is asked for.
        model: The network.
        batch_size: Samples in the batch.
        autocast: The context of the forward pass.
        asked: Whether to follow it in any case.
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
