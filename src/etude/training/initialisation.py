"""The recipe's initialisation, drawn into a model that has been built."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from etude.recipe import Recipe
from etude.tasks.data import Batch, Cursor
from etude.tasks.models.initialisation import initialise
from etude.tasks.task import Task
from etude.training.evaluate import move
from etude.training.regularisation import set_dropout
from etude.training.snapshot import buffers_kept, modes_kept

TOLERANCE = 0.02
TRIES = 10


def prepare_model(model: nn.Module, recipe: Recipe, task: Task, batch_size: int) -> None:
    """Draw the weights and set the dropout as the recipe says, in place.

    Raises:
        TaskError: If dropout is to be set in a model that has none.
    """
    if recipe.initialisation is not None:
        with task.train.untouched():
            batch = next(task.train.stream(batch_size, recipe.seed, Cursor()))
        device = next((p.device for p in model.parameters()), None)
        draw(model, recipe.initialisation, task, move(batch, device))
    if recipe.dropout is not None:
        set_dropout(model, recipe.dropout)


def draw(model: nn.Module, name: str, task: Task, batch: Batch) -> None:
    """Draw a model's weights anew, in place, from torch's global generator.

    Args:
        model: The network.
        name: 'lsuv', or a name of `etude.tasks.models.initialisation`.
        task: What it learns, through which 'lsuv' sends the batch.
        batch: Training samples on the model's device.
    """
    if name == "lsuv":
        lsuv(model, task, batch)
    else:
        initialise(model, name)


def lsuv(model: nn.Module, task: Task, batch: Batch) -> None:
    """Scale orthogonal weights, layer by layer, until each layer's outputs have variance 1.

        W ← orthogonal;   W ← W / √Var(layer's output on the batch), until it is 1 within 2%

    Linear and convolutional layers are scaled, in the order in which the batch meets them;
    recurrent layers stay orthogonal.

    Args:
        model: The network, changed in place.
        task: What it learns.
        batch: Training samples.

    Source: Mishkin & Matas 2016, arXiv:1511.06422, algorithm 1.
    """
    initialise(model, "orthogonal")
    with torch.no_grad(), modes_kept(model), buffers_kept(model):
        model.eval()
        for layer in _in_order(model, task, batch):
            _to_unit_variance(layer, model, task, batch)


def _in_order(model: nn.Module, task: Task, batch: Batch) -> list[nn.Module]:
    met: list[nn.Module] = []

    def note(layer: nn.Module, inputs: Any, output: Any) -> None:
        if layer not in met:
            met.append(layer)

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, kinds)]
    try:
        task.forward(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return met


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
