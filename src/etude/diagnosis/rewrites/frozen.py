"""Lets the frozen parameters of a model be trained."""

from __future__ import annotations

from torch import nn

from etude.diagnosis.rewrites.rewrite import Change, Rewrite


def train_frozen(model: nn.Module) -> Rewrite:
    """Return a rewrite that lets every parameter take part in training.

    Parameters that hold no real numbers stay as they are: no gradient is defined for them.

    Args:
        model: The network, which does not change.

    >>> net = nn.Sequential(nn.Linear(2, 3).requires_grad_(False), nn.Linear(3, 1))
    >>> print(train_frozen(net))
    0: requires_grad=False -> requires_grad=True
    """
    changes = tuple(
        Change(name, _trained, "requires_grad=False", "requires_grad=True")
        for name, module in model.named_modules()
        if any(_is_frozen(p) for p in module.parameters(recurse=False))
    )
    reason = "" if changes else "no parameter of the model is frozen"
    return Rewrite("frozen parameters trained", changes, reason)


def _is_frozen(parameter: nn.Parameter) -> bool:
    real = parameter.is_floating_point() or parameter.is_complex()
    return real and not parameter.requires_grad


def _trained(module: nn.Module) -> nn.Module:
    for parameter in module.parameters(recurse=False):
        if _is_frozen(parameter):
            parameter.requires_grad_(True)
    return module
