"""Draws the weights of a model's layers anew, as the layers themselves do."""

from __future__ import annotations

from torch import nn

from etude.diagnosis.rewrites.rewrite import Change, Rewrite


def fresh_weights(model: nn.Module) -> Rewrite:
    """Return a rewrite that calls `reset_parameters` of every layer that has it.

    It undoes an initialisation that the model's code makes after building its layers.

    Args:
        model: The network, which does not change.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(2, 3))
    >>> _ = torch.nn.init.zeros_(net[0].weight)
    >>> bool(fresh_weights(net).apply(net)[0].weight.any())
    True
    """
    changes = tuple(
        Change(name, _reset, type(module).__name__, "reset_parameters()")
        for name, module in model.named_modules()
        if callable(getattr(module, "reset_parameters", None))
        and any(True for _ in module.parameters(recurse=False))
    )
    reason = "" if changes else "no module of the model has reset_parameters()"
    return Rewrite("weights drawn anew", changes, reason)


def _reset(module: nn.Module) -> nn.Module:
    module.reset_parameters()  # type: ignore[operator]
    return module
