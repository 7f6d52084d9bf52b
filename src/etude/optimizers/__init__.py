"""Optimizers: the table of all that are known, and `build`."""

from typing import TYPE_CHECKING, Any

from etude.optimizers.table import ROWS, OptimizerRow, get, register
from etude.torch_version import require_torch

if TYPE_CHECKING:
    from etude.optimizers.factory import build

require_torch()

__all__ = ["ROWS", "OptimizerRow", "build", "get", "register"]


def __getattr__(name: str) -> Any:
    if name == "build":  # loads torch, which reading the table must not
        from etude.optimizers.factory import build

        return build
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
