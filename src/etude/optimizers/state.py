"""Restores an optimizer's state, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from etude.memory_layout import moved


def restore(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Load a `state_dict`, keeping the precision and the memory layout of each tensor.

    torch's `load_state_dict` casts every tensor but the step count to the parameter's precision.
    For NAdam, whose product of momenta is always float32, this changes the bits of later updates.
    It also changes the memory layout of tensors that it moves to another device.

    Args:
        optimizer: An optimizer that was built like the saved one.
        state: The result of its `state_dict()`. The optimizer uses these tensors themselves, not
            copies, if they are on its device.

    Raises:
        ValueError: If the number of groups, or the size of a group, differs.
    """
    optimizer.load_state_dict(dict(state))
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    places = [index for group in state["param_groups"] for index in group["params"]]
    memo: dict[int, torch.UntypedStorage] = {}
    for place, parameter in zip(places, parameters, strict=True):
        if place in state["state"]:
            own = optimizer.state[parameter]
            for name, saved in state["state"][place].items():
                own[name] = _as_saved(own[name], saved, memo)


def _as_saved(own: Any, saved: Any, memo: dict[int, torch.UntypedStorage]) -> Any:
    """Return a saved value, with its tensors on the devices that torch chose for them."""
    if isinstance(saved, Tensor) and hasattr(saved, "full_tensor"):  # a DTensor
        return saved  # this process's part, on the device of its parameter
    if isinstance(saved, Tensor):
        return moved(saved, own.device, memo)
    if isinstance(saved, Mapping):
        return type(own)({k: _as_saved(own[k], v, memo) for k, v in saved.items()})
    if isinstance(saved, (list, tuple)):
        return type(saved)(_as_saved(o, s, memo) for o, s in zip(own, saved, strict=True))
    return own
