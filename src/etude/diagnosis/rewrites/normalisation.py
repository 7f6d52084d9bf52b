"""Inserts normalisations into a model."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from etude.diagnosis.rewrites.forward_calls import ForwardCalls, ModuleCall, forward_calls
from etude.diagnosis.rewrites.rewrite import Change, Rewrite
from etude.layerwise.parts import kind_of
from etude.tasks.task import Task

ACTIVATIONS = frozenset((
    "relu", "relu_", "leaky_relu", "elu", "celu", "selu", "gelu", "silu", "mish", "softplus",
    "sigmoid", "tanh", "hardtanh", "hardsigmoid", "hardswish", "softsign", "logsigmoid", "relu6",
    "prelu", "rrelu", "sin",
))  # fmt: skip
"""Names of the torch functions that apply an activation."""


def insert_normalisation(task: Task, model: nn.Module) -> Rewrite:
    """Return a rewrite that normalises the input of each activation that follows a layer.

    A convolution, or a linear layer on rows of features, gets batch normalisation; a linear layer
    on sequences gets layer normalisation. A layer whose output is normalised already, or is not
    the input of an activation, stays as it is.

    Args:
        task: The task, whose forward pass is run once.
        model: The network, which does not change.

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167; Ba et al. 2016, arXiv:1607.06450.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
    >>> data = (torch.rand(64, 2), torch.rand(64, 1))
    >>> task = Task(net, data, loss=nn.functional.mse_loss)
    >>> for change in insert_normalisation(task, net).changes:
    ...     print(change.layer, change.after)
    0 Linear + BatchNorm1d(8)
    """
    calls = forward_calls(task, model)
    changes = []
    for name, module in model.named_modules():
        if kind_of(module) not in ("linear", "convolution"):
            continue
        called = calls.of(name)
        if called and all(_feeds_activation(call, calls) for call in called):
            make = _norm_for(module, called[0])
            if make is not None:
                before = type(module).__name__
                changes.append(
                    Change(
                        name,
                        _followed_by(make),
                        before,
                        f"{type(module).__name__} + {_named(make)}",
                    )
                )
    reason = "" if changes else "no layer feeds an activation without a normalisation between them"
    return Rewrite("normalisation before activations", tuple(changes), reason)


def _feeds_activation(call: ModuleCall, calls: ForwardCalls) -> bool:
    readers = calls.readers(call.writes)
    return bool(readers) and all(reader.function in ACTIVATIONS for reader in readers)


def _norm_for(module: nn.Module, call: ModuleCall) -> Callable[[], nn.Module] | None:
    """Return a function that builds the normalisation of a layer's output."""
    shape = call.shape_out
    if kind_of(module) == "convolution":
        kinds = {3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
        kind = kinds.get(len(shape))
        return None if kind is None else lambda: kind(shape[1])
    if len(shape) == 2:
        return lambda: nn.BatchNorm1d(shape[1])
    return (lambda: nn.LayerNorm(shape[-1])) if len(shape) > 2 else None


def _followed_by(make: Callable[[], nn.Module]) -> Callable[[nn.Module], nn.Module]:
    return lambda old: nn.Sequential(old, make())


def _named(make: Callable[[], nn.Module]) -> str:
    norm = make()
    size = norm.normalized_shape[0] if isinstance(norm, nn.LayerNorm) else norm.num_features
    return f"{type(norm).__name__}({size})"
