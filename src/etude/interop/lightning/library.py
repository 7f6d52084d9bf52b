"""Lightning under either of its names: `lightning.pytorch`, or `pytorch_lightning`."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from etude.errors import BadTypeError, MissingExtraError, kind_of
from etude.interop._peer import load


def lightning(part: str = "") -> ModuleType:
    """Return the package, or a part of it such as 'callbacks'."""
    end = f".{part}" if part else ""
    try:
        return load(f"lightning.pytorch{end}")
    except MissingExtraError:
        return load(f"pytorch_lightning{end}")


def library_of(module: Any) -> ModuleType:
    """Return the package that a module's class comes from.

    Raises:
        BadTypeError: If it is not a LightningModule.
    """
    for name in ("lightning.pytorch", "pytorch_lightning"):
        package = sys.modules.get(name)
        if package is not None and isinstance(module, package.LightningModule):
            return package
    raise BadTypeError(
        f"expected a LightningModule, got {kind_of(module)}: give the module that you call "
        "trainer.fit with"
    )
