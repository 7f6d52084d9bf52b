"""Combines two of torch's optimizers in one: each of them updates a part of the parameters.

Both use the groups and the state of the combined optimizer, so that `param_groups`, `state_dict`
and schedulers see only one optimizer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def step_part(
    inner: Optimizer, combined: Optimizer, parts: Iterable[tuple[dict[str, Any], Any]]
) -> None:
    """Update a part of the parameters of a combined optimizer by the step of another one.

    Args:
        inner: The optimizer whose step is used.
        combined: The combined optimizer, whose groups and state are used.
        parts: Each group of `combined`, with the parameters in it that `inner` updates.
    """
    inner.state = combined.state
    inner.param_groups = [{**group, "params": list(chosen)} for group, chosen in parts]
    if any(group["params"] for group in inner.param_groups):
        inner.step()


def placeholder() -> list[Tensor]:
    """Return parameters to build an inner optimizer with; `step_part` replaces them."""
    return [torch.nn.Parameter(torch.zeros(1, 1))]
