"""`Rewrite`: a change of a model, made on a copy and told in words and code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from etude.model_copy import copy_model
from etude.tasks.task import Task

ROOT = ""
"""The name of the whole model among its modules."""


@dataclass(frozen=True)
class Change:
    """One module that is replaced by another.

    Attributes:
        layer: The name of the module in the model; empty for the whole model.
        make: Returns the new module from the old one. It must not draw from a batch.
        before: The old module, as code.
        after: The new module, as code.
    """

    layer: str
    make: Callable[[nn.Module], nn.Module]
    before: str
    after: str


@dataclass(frozen=True)
class Rewrite:
    """Changes of a model's modules.

    Attributes:
        name: What they do, in a few words.
        changes: The changes, in the order in which they are made.
        reason: Why there are none; empty if there are some.

    >>> from torch import nn
    >>> change = Change("1", lambda old: nn.ReLU(), "Tanh()", "ReLU()")
    >>> net = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    >>> rewrite = Rewrite("swap", (change,))
    >>> rewrite.apply(net)[1], net[1]
    (ReLU(), Tanh())
    """

    name: str
    changes: tuple[Change, ...] = ()
    reason: str = ""

    def __bool__(self) -> bool:
        return bool(self.changes)

    def apply(self, model: nn.Module) -> nn.Module:
        """Return a changed copy of a model; the model itself is not changed."""
        changed = copy_model(model)
        for change in self.changes:
            changed = replaced(changed, change.layer, change.make)
        return changed

    def task(self, task: Task) -> Task:
        """Return the task with the changed model; it has no reference, as it is another task."""
        return replace(task, model=RewrittenModel(task, self))

    def __str__(self) -> str:
        if not self.changes:
            return f"{self.name}: {self.reason}"
        alike: dict[tuple[str, str], list[str]] = {}
        for change in self.changes:
            alike.setdefault((change.before, change.after), []).append(change.layer or "the model")
        return "\n".join(
            f"{', '.join(layers)}: {before} -> {after}" for (before, after), layers in alike.items()
        )


class RewrittenModel:
    """Builds the model of a task and applies a rewrite to it.

    Args:
        task: The task.
        rewrite: The rewrite.
    """

    def __init__(self, task: Task, rewrite: Rewrite) -> None:
        self.original, self.rewrite = task, rewrite

    def __call__(self) -> nn.Module:
        """Return a new network, changed."""
        return self.rewrite.apply(self.original.build())


def replaced(model: nn.Module, layer: str, make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Replace a module in place, wherever the model holds it; return the model.

    Args:
        model: The model.
        layer: The name of the module; empty for the model itself, which is then the result.
        make: Returns the new module from the old one. Its mode becomes that of the old one.
    """
    old = model.get_submodule(layer)
    new = make(old)
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    if len(devices) == 1 and devices != {torch.device("cpu")}:
        new.to(devices.pop())  # modules are made on the CPU
    new.train(old.training)
    if layer == ROOT:
        return new
    places = [name for name, one in model.named_modules(remove_duplicate=False) if one is old]
    for place in places:
        holder, _, attribute = place.rpartition(".")
        setattr(model.get_submodule(holder), attribute, new)
    return model


def code_of(module: nn.Module) -> str:
    """Return a module as one line of code.

    >>> code_of(nn.Linear(2, 3))
    'Linear(in_features=2, out_features=3, bias=True)'
    """
    return " ".join(repr(module).split())
