"""The direction of Adam's update, which LAMB scales and cautious AdamW masks."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from etude.optimizers.classes.gather import counts, gather
from etude.torch_internals import foreach


def adam_direction(
    optimizer: Optimizer, group: dict[str, Any]
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """Update both moments of a group, and return the direction of its tensors.

        m ← β1 m + (1 - β1) g,    v ← β2 v + (1 - β2) g²
        u = m̂ / (√v̂ + ε),    m̂ = m / (1 - β1^t),  v̂ = v / (1 - β2^t)

    t is the number of updates in which the tensor had a gradient.

    Args:
        optimizer: The optimizer, in whose state the moments are `exp_avg` and `exp_avg_sq`.
        group: One of its parameter groups, with `betas` and `eps`.

    Returns:
        The parameters that have a gradient, their gradients g, first moments m and directions u;
        complex numbers as pairs of real ones.

    Raises:
        TaskError: If a gradient is sparse.
    """
    steps = counts(optimizer, group)
    parameters, gradients, (first, second) = gather(optimizer, group, "exp_avg", "exp_avg_sq")
    if not parameters:
        return [], [], [], []
    beta1, beta2 = group["betas"]
    foreach.lerp_(first, gradients, 1 - beta1)
    foreach.mul_(second, beta2)
    foreach.addcmul_(second, gradients, gradients, value=1 - beta2)
    directions = list(foreach.div(second, [1 - beta2**t for t in steps]))
    foreach.sqrt_(directions)
    foreach.add_(directions, group["eps"])
    foreach.reciprocal_(directions)
    foreach.mul_(directions, first)
    foreach.div_(directions, [1 - beta1**t for t in steps])
    return parameters, gradients, first, directions
