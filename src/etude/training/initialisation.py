"""Applies the recipe's initialisation to a model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from etude.recipe import Recipe
from etude.tasks.models.initialisation import initialise
from etude.tasks.sources.data import Batch, Cursor
from etude.tasks.task import Task
from etude.training.evaluation.evaluate import move
from etude.training.machine.eager import eagerly
from etude.training.regularisation import set_dropout
from etude.training.state.snapshot import buffers_kept, modes_kept

TOLERANCE = 0.02
TRIES = 10


@eagerly()
def prepare_model(model: nn.Module, recipe: Recipe, task: Task, batch_size: int) -> None:
    """Draw the weights and set the dropout of the recipe, in place.

    Raises:
        TaskError: If the recipe sets dropout and the model has none.
    """
    if recipe.initialisation is not None:
        with task.train.untouched():
            batch = next(task.train.stream(batch_size, recipe.seed, Cursor()))
        device = next((p.device for p in model.parameters()), None)
        draw(model, recipe.initialisation, task, move(batch, device))
    if recipe.dropout is not None:
        set_dropout(model, recipe.dropout)


def draw(model: nn.Module, name: str, task: Task, batch: Batch) -> None:
    """Draw new weights for a model, in place, from torch's global generator.

    Args:
        model: The network.
        name: 'lsuv', or a name of `etude.tasks.models.initialisation`.
        task: Its task, whose forward pass 'lsuv' uses.
        batch: Training samples on the model's device.
    """
    if name == "lsuv":
        lsuv(model, task, batch)
    else:
        initialise(model, name)


def lsuv(model: nn.Module, task: Task, batch: Batch) -> None:
    """Draw orthogonal weights and scale each layer until its outputs have variance 1.

        W ← orthogonal;   W ← W / √Var(layer's output on the batch), until it is 1 within 2%

    Linear and convolutional layers are scaled, in the order of the forward pass; recurrent layers
    stay orthogonal.

    Args:
        model: The network, changed in place.
        task: Its task.
        batch: Training samples.

    Source: Mishkin & Matas 2016, arXiv:1511.06422, algorithm 1.
    """
    initialise(model, "orthogonal")
    with torch.no_grad(), modes_kept(model), buffers_kept(model):
        model.eval()
        for layer in _in_order(model, task, batch):
            _to_unit_variance(layer, model, task, batch)


def _in_order(model: nn.Module, task: Task, batch: Batch) -> list[nn.Module]:
    called: list[nn.Module] = []

    def note(layer: nn.Module, inputs: Any, output: Any) -> None:
        if layer not in called:
            called.append(layer)

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, kinds)]
    try:
        task.forward(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return called


def _to_unit_variance(layer: nn.Module, model: nn.Module, task: Task, batch: Batch) -> None:
    outputs: list[Tensor] = []
    hook = layer.register_forward_hook(lambda m, inputs, output: outputs.append(output))
    try:
        for _ in range(TRIES):
            outputs.clear()
            task.forward(model, batch)
            variance = float(torch.cat([o.flatten() for o in outputs]).var())
            if not variance > 0 or abs(variance - 1) < TOLERANCE:
                return
            weight = layer.weight
            assert isinstance(weight, Tensor)
            weight.div_(variance**0.5)
    finally:
        hook.remove()
