"""Forward passes in which only the hooks are called that a model had at first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from etude.torch_internals import forward_hooks


class OwnHooks:
    """The hooks that a model has now: they belong to it, later ones are those of onlookers.

    Args:
        model: The model.

    >>> model = nn.Linear(1, 1)
    >>> own, calls = OwnHooks(model), []
    >>> _ = model.register_forward_hook(lambda *given: calls.append(given))
    >>> import torch
    >>> with own.alone():
    ...     _ = model(torch.ones(1, 1))
    >>> len(calls)
    0
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._known = {
            (id(module), key)
            for module in model.modules()
            for hooks in forward_hooks(module)
            for key in hooks
        }

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Take away the later hooks in the block."""
        taken = []
        for module in self._model.modules():
            for hooks in forward_hooks(module):
                if any((id(module), key) not in self._known for key in hooks):
                    taken.append((hooks, dict(hooks)))
                    for key in [key for key in hooks if (id(module), key) not in self._known]:
                        del hooks[key]
        try:
            yield
        finally:
            for hooks, whole in taken:
                hooks.clear()
                hooks.update(whole)
