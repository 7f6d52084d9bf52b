"""What Etude's own optimizers share: the tensors of a group, ready for foreach operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from etude.errors import TaskError

Loss = Callable[[], Any]
"""A closure: it computes the loss anew, with its gradient, and returns it."""


def loss_of(closure: Loss | None) -> Any:
    """Return the loss of an optional closure, with gradients enabled."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def gather(
    optimizer: Optimizer, group: dict[str, Any], *moments: str
) -> tuple[list[Tensor], list[Tensor], list[list[Tensor]]]:
    """Return (parameters, gradients, moments) of those in a group that have a gradient.

    Args:
        optimizer: Whose state holds the moments.
        group: One of its parameter groups.
        *moments: Names of state tensors shaped as the parameter, zero before the first update.

    Raises:
        TaskError: If a gradient is sparse.
    """
    parameters: list[Tensor] = [p for p in group["params"] if p.grad is not None]
    gradients = [p.grad for p in parameters if p.grad is not None]
    for gradient in gradients:
        if gradient.is_sparse:
            raise TaskError(
                f"{type(optimizer).__name__} does not take sparse gradients: use sgd, adagrad or "
                "sparse_adam, or build the embedding with sparse=False"
            )
    for parameter in parameters:
        state = optimizer.state[parameter]
        for name in moments:
            if name not in state:
                state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    return parameters, gradients, [[optimizer.state[p][m] for p in parameters] for m in moments]


def count(group: dict[str, Any]) -> int:
    """Count one more update of a group and return its number, from 1 on."""
    group["step"] = int(group.get("step", 0)) + 1
    return int(group["step"])
