"""Optimizers: the table of all that are known, and `build`."""

from typing import TYPE_CHECKING, Any

from etude.optimizers.table import ROWS, OptimizerRow, get, register
from etude.torch_version import require_torch

if TYPE_CHECKING:
    from etude.optimizers.factory import build
    from etude.optimizers.own_optimizer import own

require_torch()

__all__ = ["ROWS", "OptimizerRow", "build", "get", "own", "register"]


def __getattr__(name: str) -> Any:
    if name == "build":  # loads torch, which reading the table must not
        from etude.optimizers.factory import build

        return build
    if name == "own":  # loads torch too
        from etude.optimizers.own_optimizer import own

        return own
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
