"""Replaces the activations of a model that saturate."""

from __future__ import annotations

from torch import nn

from etude.diagnosis.rewrites.forward_calls import ForwardCalls, forward_calls
from etude.diagnosis.rewrites.rewrite import Change, Rewrite, code_of
from etude.tasks.task import Task

SATURATING: tuple[type[nn.Module], ...] = (
    nn.Sigmoid,
    nn.Tanh,
    nn.Hardtanh,
    nn.Hardsigmoid,
    nn.Softsign,
    nn.LogSigmoid,
    nn.Tanhshrink,
)
"""Activations whose derivative tends to 0 for large inputs of either sign, or of one of them."""

PRODUCTS = frozenset(("mul", "__mul__", "__rmul__", "__imul__", "mul_", "lerp", "glu"))
"""Calls that use an activation as a gate."""


def swap_activations(task: Task, model: nn.Module, to: type[nn.Module] = nn.ReLU) -> Rewrite:
    """Return a rewrite that replaces saturating activations between layers.

    The activation of the model's output and gates, whose result multiplies something else, are
    kept: their range has a meaning. Activations inside recurrent layers are kept too.

    Args:
        task: The task, whose forward pass is run once.
        model: The network, which does not change.
        to: The class of the new activations.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(2, 8), nn.Sigmoid(), nn.Linear(8, 1), nn.Sigmoid())
    >>> data = (torch.rand(64, 2), torch.rand(64, 1))
    >>> task = Task(net, data, loss=nn.functional.mse_loss)
    >>> print(swap_activations(task, net))
    1: Sigmoid() -> ReLU()
    """
    calls = forward_calls(task, model)
    changes = tuple(
        Change(name, lambda old: to(), code_of(module), code_of(to()))
        for name, module in model.named_modules()
        if isinstance(module, SATURATING) and not isinstance(module, to) and _hidden(name, calls)
    )
    reason = "" if changes else "no module of the model is a saturating activation between layers"
    return Rewrite(f"{to.__name__} in place of saturating activations", changes, reason)


def _hidden(name: str, calls: ForwardCalls) -> bool:
    """Return whether the results of an activation are used, and neither output nor gate."""
    made = [call.writes for call in calls.of(name)]
    readers = [reader for value in made for reader in calls.readers(value)]
    return (
        bool(readers)
        and not any(value in calls.output for value in made)
        and not any(reader.function in PRODUCTS for reader in readers)
    )
