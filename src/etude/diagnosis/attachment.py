"""Attaches a watch to models, optimizers and backward passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from etude.diagnosis.hooks import Hook
from etude.torch_internals import BackwardListener, listen_to_backward

HOOKLESS = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)
"""Modules that compute an evaluation in another way where a hook is attached to them."""


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


def attached(
    listener: LoopListener, optimizers: Sequence[Optimizer], models: Sequence[nn.Module]
) -> list[Callable[[], None]]:
    """Attach a listener, which is held weakly; return the functions that remove it.

    Args:
        listener: What is called.
        optimizers: Their steps are listened to.
        models: Their forward passes are listened to, except those of `HOOKLESS`.
    """
    removers = [listen_to_backward(listener)]
    for number, optimizer in enumerate(optimizers):
        for register, method in (
            (optimizer.register_step_pre_hook, "before_step"),
            (optimizer.register_step_post_hook, "after_step"),
        ):
            removers.append(register(_StepHook(listener, method, number)).remove)
    for module in models:
        if not isinstance(module, HOOKLESS):
            before, after = Hook(listener, "before_forward"), Hook(listener, "after_forward")
            removers += [
                module.register_forward_pre_hook(before, with_kwargs=True).remove,
                module.register_forward_hook(after, with_kwargs=True, always_call=True).remove,
            ]
    return removers


def call_all(removers: Sequence[Callable[[], None]]) -> None:
    """Call the functions, in order."""
    for remove in removers:
        remove()


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
            closure = any(callable(one) and one is not optimizer for one in given)
            getattr(owner, self._method)(self._number, closure)
