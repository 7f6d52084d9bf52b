"""Chooses the number of threads for an update: one if the update is small."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from etude.torch_internals import CONVOLUTIONS

SMALL = 5e7
"""The number of operations of a forward pass below which one thread is used.

Measured on two cores: below it, a second thread saves at most a fifth of the time of an update if
the machine is idle. If it is not idle, an update can take up to a hundred times as long, because
the two threads wait for each other at every operation.
"""


@contextmanager
def counted_work(model: nn.Module) -> Iterator[list[float]]:
    """Count the operations of the forward passes in a block.

    Each module counts as 2 * (number of weights) * (number of positions it is applied to): rows of
    a linear layer, pixels of a convolution, steps of a recurrent layer. Operations outside of
    modules are not counted.

    >>> layer = nn.Linear(8, 4, bias=False)
    >>> with counted_work(layer) as work:
    ...     _ = layer(torch.ones(16, 8))
    >>> sum(work)
    1024.0
    """
    work: list[float] = []

    def count(module: nn.Module, _: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        if not isinstance(first, Tensor) or first.ndim == 0:
            return
        weights = sum(p.numel() for p in module.parameters(recurse=False))
        channels = first.shape[1 if isinstance(module, CONVOLUTIONS) else -1]
        work.append(2.0 * weights * first.numel() / max(1, channels))

    handles = [
        module.register_forward_hook(count)
        for module in model.modules()
        if not isinstance(module, nn.Embedding) and any(True for _ in module.parameters(False))
    ]
    try:
        yield work
    finally:
        for handle in handles:
            handle.remove()


def suitable_threads(work: list[float]) -> int:
    """Return the number of threads to use for an update, from the operations of its forward pass.

    If nothing could be counted, as in a compiled module, this is torch's current number.
    """
    return 1 if work and sum(work) < SMALL else torch.get_num_threads()


@contextmanager
def use_threads(count: int) -> Iterator[None]:
    """Make torch use `count` threads inside a block."""
    before = torch.get_num_threads()
    if count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
