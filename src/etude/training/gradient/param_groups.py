"""Writes the values of an update into an optimizer's parameter groups, and drops gradients."""

from __future__ import annotations

from collections.abc import Mapping

from torch.optim import Optimizer

from etude.optimizers import own_values
from etude.tasks.groups import LR_MULT, OWN


def write(optimizer: Optimizer, lr: float, others: Mapping[str, float]) -> None:
    """Set the rate and other scheduled hyperparameters in every group.

    Args:
        optimizer: The optimizer with the groups.
        lr: The rate; a group of the task's own gets its multiple.
        others: The other values by name. If a group has `betas`, 'momentum' and 'beta1' name the
            first of them, and 'beta2' the second.
    """
    for group in optimizer.param_groups:
        own_values.write(group, ("lr", None), lr * group.get(LR_MULT, 1.0))
        own = group.get(OWN, ())
        for name, value in others.items():
            if name in own or (name in ("momentum", "beta1", "beta2") and "betas" in own):
                continue
            if name in ("momentum", "beta1") and name not in group:
                own_values.write(group, ("betas", 0), value)
            elif name == "beta2" and name not in group:
                own_values.write(group, ("betas", 1), value)
            else:
                own_values.write(group, (name, None), value)


def drop_gradients(optimizer: Optimizer) -> None:
    """Set every gradient to None, as `zero_grad(set_to_none=True)` does.

    torch's own method adds a label for the profiler, which takes ten times as long as dropping the
    gradients. If an optimizer has its own method, that method is called.
    """
    if type(optimizer).zero_grad is not Optimizer.zero_grad:
        optimizer.zero_grad(set_to_none=True)
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None
