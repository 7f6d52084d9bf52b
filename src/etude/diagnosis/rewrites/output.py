"""Removes the output function of a model whose loss applies one itself."""

from __future__ import annotations

from torch import nn

from etude.diagnosis.rewrites.forward_calls import forward_calls
from etude.diagnosis.rewrites.rewrite import Change, Rewrite, code_of
from etude.tasks.task import Task

OUTPUTS: tuple[type[nn.Module], ...] = (
    nn.Softmax,
    nn.Softmax2d,
    nn.LogSoftmax,
    nn.Sigmoid,
    nn.LogSigmoid,
    nn.Tanh,
    nn.ReLU,
)
"""Functions that turn scores into something else."""


def drop_output_function(task: Task, model: nn.Module) -> Rewrite:
    """Return a rewrite that removes the function at the model's output.

    `cross_entropy` applies a log-softmax and `binary_cross_entropy_with_logits` a sigmoid to what
    they are given: a second one in the model bounds the scores, and slows training.

    Args:
        task: The task, whose forward pass is run once.
        model: The network, which does not change.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.Softmax(1))
    >>> data = (torch.rand(64, 2), torch.arange(64) % 3)
    >>> print(drop_output_function(Task(net, data, loss=nn.functional.cross_entropy), net))
    1: Softmax(dim=1) -> Identity()
    """
    calls = forward_calls(task, model)
    changes = tuple(
        Change(name, lambda old: nn.Identity(), code_of(module), "Identity()")
        for name, module in model.named_modules()
        if isinstance(module, OUTPUTS)
        and (called := calls.of(name))
        and all(call.writes in calls.output for call in called)
    )
    reason = "" if changes else "no module of the model is a function of its output alone"
    return Rewrite("output function removed", changes, reason)
