"""Writes the values of one update into an optimizer's parameter groups."""

from __future__ import annotations

from collections.abc import Mapping

from torch.optim import Optimizer


def write(optimizer: Optimizer, lr: float, others: Mapping[str, float]) -> None:
    """Set the rate and other scheduled hyperparameters in every group.

    Args:
        optimizer: Whose groups to write.
        lr: The rate.
        others: By name; 'momentum' and 'beta1' name the first of `betas` where a group has these,
            'beta2' the second.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
        for name, value in others.items():
            if name in ("momentum", "beta1") and name not in group:
                group["betas"] = (value, group["betas"][1])
            elif name == "beta2":
                group["betas"] = (group["betas"][0], value)
            else:
                group[name] = value
