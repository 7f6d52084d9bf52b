"""Measures a model without changing the run: everything is restored afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from etude.optimizers.classes.hessian import twice_differentiable
from etude.randomness import random_state_kept
from etude.tasks.sources.data import Data
from etude.training.state.snapshot import Snapshot, modes_kept

Kinds = tuple[type[nn.Module], ...]


@contextmanager
def held_still(
    model: nn.Module, data: Data, seed: int, *, only: Kinds | None = None, but: Kinds = ()
) -> Iterator[Snapshot]:
    """Put a model into evaluation mode for a block, and restore everything after it.

    The block may change every module's mode, the buffers, the gradients, the global random state,
    and the random state of the data: all of them are restored.

    Args:
        model: The network.
        data: The data that the block draws from.
        seed: The seed of the random numbers in the block.
        only: The kinds of modules that are put into evaluation mode; None for all.
        but: Kinds of modules that keep their mode.

    Yields:
        The state at the beginning of the block. Call its `restore` before each forward pass to give
        all of them the same random numbers and buffers.
    """
    with random_state_kept(seed), data.untouched(), modes_kept(model):
        undo = Snapshot(model, data.draws)
        gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
        spared = [
            (module, module.training) for module in model.modules() if isinstance(module, but)
        ]
        for module in [model] if only is None else model.modules():
            if only is None or isinstance(module, only):
                module.eval()
        for module, training in spared:
            module.training = training
        for parameter, _ in gradients:
            parameter.grad = None  # a backward pass would add to it in place
        try:
            yield undo
        finally:
            for parameter, gradient in gradients:
                parameter.grad = gradient
            undo.restore()


@contextmanager
def curved(model: nn.Module) -> Iterator[None]:
    """Use dense gradients, and kernels that have second derivatives, in a block."""
    lazy = [module for module in model.modules() if getattr(module, "sparse", False)]
    for module in lazy:
        module.sparse = False  # type: ignore[assignment]
    try:
        with twice_differentiable():
            yield
    finally:
        for module in lazy:
            module.sparse = True  # type: ignore[assignment]
