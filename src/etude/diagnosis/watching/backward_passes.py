"""Tells of every backward pass of this process, and of what is scaled for it."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch


class BackwardListener(Protocol):
    """Hears where backward passes start and end, and what is multiplied for a `GradScaler`."""

    def before_backward(self, tensors: Any) -> None:
        """Called with the tensors of `torch.autograd.backward` before it runs."""

    def after_backward(self, tensors: Any) -> None:
        """Called after a backward pass that did not fail."""

    def backward_failed(self) -> None:
        """Called after one that did, before its error goes on."""

    def scaled(self, given: Any, result: Any) -> None:
        """Called with what `GradScaler.scale` was given and what it returned."""


class _Backward:
    """Replaces `torch.autograd.backward` and `GradScaler.scale` while somebody listens.

    `Tensor.backward` looks the function up in `torch.autograd` at each call. Listeners are held
    weakly. If another package has put its own function around ours, ours stays below it and does
    nothing more than call torch's.
    """

    def __init__(self) -> None:
        self._listeners: list[weakref.ref[Any]] = []
        self._plain: tuple[Any, Any] | None = None
        self._ours: tuple[Any, Any] | None = None
        self._lock = threading.RLock()

    def _living(self) -> list[Any]:
        return [one for ref in self._listeners if (one := ref()) is not None]

    def add(self, listener: BackwardListener) -> Callable[[], None]:
        """Add a listener; return the function that removes it, which may be called twice."""
        ref = weakref.ref(listener)
        with self._lock:
            self._listeners.append(ref)
            if self._plain is None:
                self._install()

        def remove() -> None:
            with self._lock:
                self._listeners = [
                    one for one in self._listeners if one is not ref and one() is not None
                ]
                if not self._listeners:
                    self._restore()

        return remove

    def _install(self) -> None:
        backward, scale = torch.autograd.backward, torch.amp.GradScaler.scale
        self._plain = backward, scale

        @functools.wraps(backward)
        def heard_backward(tensors: Any, *args: Any, **options: Any) -> None:
            heard = self._living()
            for one in heard:
                one.before_backward(tensors)
            try:
                backward(tensors, *args, **options)
            except BaseException:
                for one in heard:
                    one.backward_failed()
                raise
            for one in heard:
                one.after_backward(tensors)

        @functools.wraps(scale)
        def heard_scale(scaler: Any, outputs: Any) -> Any:
            result = scale(scaler, outputs)
            for one in self._living():
                one.scaled(outputs, result)
            return result

        torch.autograd.backward = heard_backward
        torch.amp.GradScaler.scale = heard_scale  # type: ignore[method-assign,assignment]
        self._ours = heard_backward, heard_scale

    def _restore(self) -> None:
        if self._plain is None or self._ours is None:
            return
        here = torch.autograd.backward, torch.amp.GradScaler.scale
        if here[0] is not self._ours[0] or here[1] is not self._ours[1]:
            return
        torch.autograd.backward = self._plain[0]
        torch.amp.GradScaler.scale = self._plain[1]  # type: ignore[method-assign]
        self._plain = self._ours = None


_BACKWARD = _Backward()


def listen_to_backward(listener: BackwardListener) -> Callable[[], None]:
    """Call an object around every backward pass of this process, until it is removed or collected.

    Returns:
        The function that removes it; it may be called more than once.
    """
    return _BACKWARD.add(listener)
