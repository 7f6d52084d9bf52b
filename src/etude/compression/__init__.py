"""Smaller networks from trained ones: pruning, int8, and the rate to train them further with.

`compress` makes one and measures what that costs; `load` reads it back.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etude.compression.compressing import compress, load
    from etude.compression.result import CompressionResult

__all__ = ["CompressionResult", "compress", "load"]

_HOMES = {
    "CompressionResult": "etude.compression.result",
    "compress": "etude.compression.compressing",
    "load": "etude.compression.compressing",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
