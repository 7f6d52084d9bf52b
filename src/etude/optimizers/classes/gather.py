"""Helpers of Etude's own optimizers: the tensors of a group, for foreach operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from etude.errors import TaskError

Loss = Callable[[], Any]
"""A closure that computes the loss again, with its gradient, and returns it."""


def loss_of(closure: Loss | None) -> Any:
    """Return the loss of an optional closure, with gradients enabled."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def gather(
    optimizer: Optimizer, group: dict[str, Any], *moments: str
) -> tuple[list[Tensor], list[Tensor], list[list[Tensor]]]:
    """Return (parameters, gradients, moments) of the parameters in a group with a gradient.

    Complex tensors are returned as pairs of real numbers, as in torch's own Adam, because g² of a
    complex g is not a magnitude.

    Args:
        optimizer: The optimizer whose state has the moments.
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
    states = [[optimizer.state[p][m] for p in parameters] for m in moments]
    return real(parameters), real(gradients), [real(state) for state in states]


def real(tensors: list[Tensor]) -> list[Tensor]:
    """Return tensors with each complex number as a pair of real numbers.

    >>> real([torch.tensor([1 + 2j])])[0].tolist()
    [[1.0, 2.0]]
    """
    return [torch.view_as_real(t) if t.is_complex() else t for t in tensors]


def counts(optimizer: Optimizer, group: dict[str, Any]) -> list[int]:
    """Count an update of each parameter that has a gradient, and return the counts, from 1 on.

    Counts differ, since a parameter may lack a gradient in some updates or be added later.
    """
    states = [optimizer.state[p] for p in group["params"] if p.grad is not None]
    for state in states:
        # Older versions saved one count per group; continue from that count.
        before = group.get("step", 0) if "exp_avg" in state else 0
        state["step"] = int(state.get("step", before)) + 1
    return [state["step"] for state in states]
