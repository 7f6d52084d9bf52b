"""An optimizer's state, put back to the bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer


def restore(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Load a `state_dict`, each tensor in the precision it was saved in.

    torch's own `load_state_dict` turns all but the step count into the parameter's precision,
    and NAdam, whose product of momenta is float32 whatever the parameter is, goes on with other
    bits.

    Args:
        optimizer: One built as that whose state it is.
        state: What its `state_dict()` returned.

    Raises:
        ValueError: If the groups differ in number or size.
    """
    optimizer.load_state_dict(dict(state))
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    places = [index for group in state["param_groups"] for index in group["params"]]
    for place, parameter in zip(places, parameters, strict=True):
        own = optimizer.state.get(parameter, {})
        for name, saved in state["state"].get(place, {}).items():
            if isinstance(saved, Tensor) and saved.dtype != own[name].dtype:
                own[name] = saved.detach().clone().to(own[name].device)
