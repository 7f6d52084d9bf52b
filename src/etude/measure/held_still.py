"""A model held still for a measurement, which leaves no trace in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from etude.optimizers.hessian import twice_differentiable
from etude.randomness import random_state_kept
from etude.tasks.data import Data
from etude.training.snapshot import Snapshot, modes_kept

Kinds = tuple[type[nn.Module], ...]


@contextmanager
def held_still(
    model: nn.Module, data: Data, seed: int, *, only: Kinds | None = None, but: Kinds = ()
) -> Iterator[Snapshot]:
    """Put a model into its evaluation mode for a block; then all is as it was before.

    Put back are every module's mode, the buffers, the gradients, the global random state, and
    the state of what the data draws from.

    Args:
        model: The network.
        data: What is drawn from within the block.
        seed: Of the random numbers within the block.
        only: The kinds of modules that are put into evaluation mode; None for all.
        but: Kinds that stay in the mode in which they are.

    Yields:
        The state at the beginning of the block: its `restore` gives each forward pass the same
        random numbers and buffers.
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
            parameter.grad = None  # what is added to it would be added in place
        try:
            yield undo
        finally:
            for parameter, gradient in gradients:
                parameter.grad = gradient
            undo.restore()


@contextmanager
def curved(model: nn.Module) -> Iterator[None]:
    """Let a model have second derivatives for a block: dense gradients, and kernels that do."""
    lazy = [module for module in model.modules() if getattr(module, "sparse", False)]
    for module in lazy:
        module.sparse = False  # type: ignore[assignment]
    try:
        with twice_differentiable():
            yield
    finally:
        for module in lazy:
            module.sparse = True  # type: ignore[assignment]
