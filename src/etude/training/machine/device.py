"""The device of a run, and how its results are made reproducible to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import nn

from etude.errors import BadValueError, TaskError

# The module replaces itself when it is imported, which type checkers do not see.
_determinism: Any = import_module("torch.utils.deterministic")


def device_for(wanted: str | torch.device | None, model: nn.Module) -> torch.device:
    """Return the requested device, else the model's own, else an accelerator, else the CPU.

    An accelerator is returned with its number, as tensors on it have it: 'cuda' alone equals the
    device of no tensor.

    Raises:
        BadValueError: If the device cannot be used.
        TaskError: If a weight or buffer of the model is on the meta device.
    """
    _refuse_meta(model)
    if wanted is not None:
        try:
            device = torch.device(wanted)
            if device.type == "meta":
                raise NotImplementedError("tensors on it have a shape and no values")
            placed = torch.empty(1, device=device).device
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).partition("\n")[0]
            raise BadValueError(f"device={str(wanted)!r} cannot be used: {reason}") from error
        return device if device.type == "cpu" else placed
    own = next((p.device for p in model.parameters()), torch.device("cpu"))
    if own.type != "cpu" or not torch.accelerator.is_available():
        return own
    current = torch.accelerator.current_accelerator()
    return own if current is None else torch.empty(0, device=current).device


def _refuse_meta(model: nn.Module) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise TaskError(
                f"{name!r} of the model is on the meta device, where a tensor has a shape and no "
                "values: build the model outside of torch.device('meta'), or give it memory with "
                "model.to_empty(device='cpu') and set every weight"
            )


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Make an accelerator compute the same bits every time, inside a block.

    Memory that torch leaves uninitialised is not filled: that makes no result reproducible that is
    not, and takes up to a fifth of the time of a small network's update.
    """
    if device.type == "cpu":
        yield
        return
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
        _determinism.fill_uninitialized_memory,
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    _determinism.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = before[2]
        _determinism.fill_uninitialized_memory = before[3]
