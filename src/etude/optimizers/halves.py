"""Two optimizers behind one face: each parameter is served by the half that fits it.

The halves are torch's own. They share the face's groups and state, so that `param_groups`,
`state_dict` and schedulers see one optimizer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def serve(half: Optimizer, face: Optimizer, shares: Iterable[tuple[dict[str, Any], Any]]) -> None:
    """Let `half` do one update of its share of every group of `face`.

    Args:
        half: The optimizer whose formula is used.
        face: The optimizer whose groups and state it works on.
        shares: Each group of the face, with the parameters of it that `half` serves.
    """
    half.state = face.state
    half.param_groups = [{**group, "params": list(served)} for group, served in shares]
    if any(group["params"] for group in half.param_groups):
        half.step()


def placeholder() -> list[Tensor]:
    """Return parameters for building a half whose groups are filled at every update."""
    return [torch.nn.Parameter(torch.zeros(1, 1))]
