"""Writes the values of one update into an optimizer's parameter groups."""

from __future__ import annotations

from collections.abc import Mapping

from torch.optim import Optimizer

from etude.optimizers import own_values


def write(optimizer: Optimizer, lr: float, others: Mapping[str, float]) -> None:
    """Set the rate and other scheduled hyperparameters in every group.

    Args:
        optimizer: Whose groups to write.
        lr: The rate.
        others: By name; 'momentum' and 'beta1' name the first of `betas` where a group has these,
            'beta2' the second.
    """
    for group in optimizer.param_groups:
        own_values.write(group, ("lr", None), lr)
        for name, value in others.items():
            if name in ("momentum", "beta1") and name not in group:
                own_values.write(group, ("betas", 0), value)
            elif name == "beta2" and name not in group:
                own_values.write(group, ("betas", 1), value)
            else:
                own_values.write(group, (name, None), value)
