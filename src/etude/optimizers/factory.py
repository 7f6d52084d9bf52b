"""From a name to a torch Optimizer."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from etude.errors import BadValueError, TaskError
from etude.optimizers.table import get


def build(
    name: str,
    model_or_params: nn.Module | Iterable[Tensor],
    *,
    lr: float,
    **hyperparameters: Any,
) -> Optimizer:
    """Build a torch Optimizer by name, with torch's own defaults.

    Args:
        name: A name of the table, for instance 'adamw'.
        model_or_params: A model, whose trainable parameters are taken, or the parameters.
        lr: The rate; 0 changes nothing.
        **hyperparameters: Any of the row's, checked against its bounds.

    Raises:
        UnknownNameError: If the optimizer or a hyperparameter has another name.
        BadValueError: If a value is out of bounds, or torch refuses them together.
        TaskError: If there is no trainable parameter.

    >>> build("sgd", nn.Linear(2, 1), lr=0.1, momentum=0.9).defaults["momentum"]
    0.9
    """
    row = get(name)
    checked = row.check(hyperparameters)
    if not 0 <= lr < float("inf"):
        raise BadValueError(f"lr={lr!r} is out of bounds: give a finite number >= 0")
    if isinstance(model_or_params, nn.Module):
        parameters: list[Tensor] = [p for p in model_or_params.parameters() if p.requires_grad]
    else:
        parameters = list(model_or_params)
    if not parameters:
        raise TaskError("there is no trainable parameter: every requires_grad is False")
    module, _, attribute = row.factory.partition(":")
    factory = getattr(importlib.import_module(module), attribute)
    try:
        optimizer: Optimizer = factory(parameters, lr=lr, **checked)
    except ValueError as error:  # values that are good alone, and not together
        raise BadValueError(f"{name} refuses {checked}: {error}") from error
    return optimizer
