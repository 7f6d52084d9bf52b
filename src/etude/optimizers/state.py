"""An optimizer's state, put back to the bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from etude.memory_layout import moved


def restore(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Load a `state_dict`, each tensor as it was saved: its precision, and how it lies in memory.

    torch's own `load_state_dict` turns all but the step count into the parameter's precision,
    and NAdam, whose product of momenta is float32 whatever the parameter is, goes on with other
    bits. What it moves to another device it lays out anew.

    Args:
        optimizer: One built as that whose state it is.
        state: What its `state_dict()` returned. The optimizer goes on with these very tensors,
            where they are on its device.

    Raises:
        ValueError: If the groups differ in number or size.
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
    """Return what was saved, its tensors on the devices that torch has chosen for them."""
    if isinstance(saved, Tensor):
        return moved(saved, own.device, memo)
    if isinstance(saved, Mapping):
        return type(own)({k: _as_saved(own[k], v, memo) for k, v in saved.items()})
    if isinstance(saved, (list, tuple)):
        return type(saved)(_as_saved(o, s, memo) for o, s in zip(own, saved, strict=True))
    return own
