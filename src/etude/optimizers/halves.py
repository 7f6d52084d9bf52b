"""Combines two optimizers in one: each parameter is updated by the half that fits it.

The halves are torch's own optimizers. They share the groups and the state of the combined
optimizer, so that `param_groups`, `state_dict` and schedulers see only one optimizer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def serve(half: Optimizer, face: Optimizer, shares: Iterable[tuple[dict[str, Any], Any]]) -> None:
    """Update the parameters that belong to `half`, in every group of `face`.

    Args:
        half: The optimizer whose formula is used.
        face: The combined optimizer, whose groups and state are used.
        shares: Each group of `face`, with its parameters that `half` updates.
    """
    half.state = face.state
    half.param_groups = [{**group, "params": list(served)} for group, served in shares]
    if any(group["params"] for group in half.param_groups):
        half.step()


def placeholder() -> list[Tensor]:
    """Return parameters for the construction of a half, whose groups are set at every update."""
    return [torch.nn.Parameter(torch.zeros(1, 1))]
