"""What Etude's own optimizers share: the tensors of a group, ready for foreach operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from etude.errors import BadValueError, TaskError

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

    Complex ones are returned as pairs of real numbers, as torch's own Adam treats them: g² of a
    complex g is no size.

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
    states = [[optimizer.state[p][m] for p in parameters] for m in moments]
    return real(parameters), real(gradients), [real(state) for state in states]


def real(tensors: list[Tensor]) -> list[Tensor]:
    """Return tensors with each complex number as the two real ones it is made of.

    >>> real([torch.tensor([1 + 2j])])[0].tolist()
    [[1.0, 2.0]]
    """
    return [torch.view_as_real(t) if t.is_complex() else t for t in tensors]


def counts(optimizer: Optimizer, group: dict[str, Any]) -> list[int]:
    """Count one more update of each parameter that has a gradient; return the numbers, from 1 on.

    A parameter may have had no gradient in some updates, or come later than others.
    """
    states = [optimizer.state[p] for p in group["params"] if p.grad is not None]
    for state in states:
        # What was saved when updates were counted for a whole group goes on from there.
        before = group.get("step", 0) if "exp_avg" in state else 0
        state["step"] = int(state.get("step", before)) + 1
    return [state["step"] for state in states]


def refuse_second_group(optimizer: Optimizer, name: str) -> None:
    """Refuse a parameter group beside the one there is.

    Raises:
        BadValueError: If there is one.
    """
    if optimizer.param_groups:
        raise BadValueError(f"{name} solves for all parameters at once: give one group")
