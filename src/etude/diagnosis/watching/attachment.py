"""Attaches a watch to models, optimizers and backward passes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from etude.diagnosis.watching.backward_passes import BackwardListener, listen_to_backward
from etude.diagnosis.watching.hooks import Hook

HOOKLESS = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)
"""Modules that compute an evaluation in another way where a hook is attached to them."""

Removers = list[Callable[[], None]]


class LoopListener(BackwardListener, Protocol):
    """What is called around the forward passes, backward passes and steps of a loop."""

    def before_forward(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Called before the model's forward pass."""

    def after_forward(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Called after it; `output` is None where it failed."""

    def before_step(self, number: int, closure: bool) -> None:
        """Called before the step of an optimizer, with its number."""

    def after_step(self, number: int, closure: bool) -> None:
        """Called after it."""


class Attachment:
    """The hooks of a listener, which is held weakly.

    Hooks cost time in each update. Those of forward passes are therefore attached only where one is
    to be read, and while the listener rests only the ends of steps are heard: these hooks stay,
    since torch allows no hook of an optimizer to be removed while it calls them.

    Args:
        listener: What is called.
        optimizers: Their steps are listened to.
        models: Their forward passes are listened to, except those of `HOOKLESS`.
    """

    def __init__(
        self, listener: LoopListener, optimizers: Sequence[Optimizer], models: Sequence[nn.Module]
    ) -> None:
        self._listener = weakref.ref(listener)
        self._optimizers = list(optimizers)
        self._models = [module for module in models if not isinstance(module, HOOKLESS)]
        self._forward: Removers = []
        self._before: Removers = []
        self._after: Removers = [
            one.register_step_post_hook(_StepHook(listener, "after_step", number)).remove
            for number, one in enumerate(self._optimizers)
        ]
        self.listen()
        self.listen_forward(True)

    def listen(self) -> None:
        """Listen to backward passes and to what comes before steps."""
        listener = self._listener()
        if self._before or listener is None:
            return
        self._before = [listen_to_backward(listener)]
        for number, one in enumerate(self._optimizers):
            hook = _StepHook(listener, "before_step", number)
            self._before.append(one.register_step_pre_hook(hook).remove)

    def listen_forward(self, wanted: bool) -> None:
        """Listen to forward passes, or no longer."""
        listener = self._listener()
        if not wanted:
            call_all(self._forward)
        if not wanted or self._forward or listener is None:
            return
        for module in self._models:
            before, after = Hook(listener, "before_forward"), Hook(listener, "after_forward")
            self._forward += [
                module.register_forward_pre_hook(before, with_kwargs=True).remove,
                module.register_forward_hook(after, with_kwargs=True, always_call=True).remove,
            ]

    def rest(self) -> None:
        """Listen to nothing but the ends of steps, until `listen` is called."""
        call_all(self._forward)
        call_all(self._before)

    def remove(self) -> None:
        """Remove all hooks."""
        for removers in (self._forward, self._before, self._after):
            call_all(removers)


def call_all(removers: Removers) -> None:
    """Call the functions, in order, each once."""
    while removers:
        removers.pop(0)()


class _StepHook(Hook):
    """A hook of an optimizer, which gives its number and whether a closure was given."""

    def __init__(self, owner: object, method: str, number: int) -> None:
        super().__init__(owner, method)
        self._number = number

    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Call the listener, except while torch compiles the step."""
        owner = self._owner()
        if owner is not None and not torch.compiler.is_compiling():
            given = [*args, *kwargs.values()]  # the optimizer itself is among them
            closure = len(given) > 1 and any(
                callable(one) and one is not optimizer for one in given
            )
            getattr(owner, self._method)(self._number, closure)
