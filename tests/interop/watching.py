"""What the tests of the callbacks that watch share."""

from __future__ import annotations

import torch
from torch import nn


def hooks_of(model: nn.Module, *optimizers: torch.optim.Optimizer) -> list[object]:
    """All hooks of a model, its parts and its optimizers."""
    found: list[object] = []
    for module in model.modules():
        found += [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    for one in optimizers:
        found += [
            *one._optimizer_step_pre_hooks.values(),
            *one._optimizer_step_post_hooks.values(),
        ]
    return found


def torch_is_plain() -> bool:
    """Whether no watch listens, and no mode of torch's functions is left open."""
    return (
        torch.autograd.backward.__module__ == "torch.autograd"
        and not hasattr(torch.autograd.backward, "__wrapped__")
        and not torch.overrides.has_torch_function([torch.zeros(1)])
    )


def equal(one: nn.Module, other: nn.Module) -> bool:
    """Whether two models have the same bits."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)
