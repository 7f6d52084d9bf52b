"""What the tests of stacked training share."""

from __future__ import annotations

from typing import Any

from etude import Recipe
from etude.engines import VmapEngine
from tests.engines.common import (
    BASE,
)


def members(**fields: Any) -> list[Recipe]:
    """Three that differ in rate, seed and schedule."""
    base = BASE.replace(**fields)
    return [
        base,
        base.replace(lr=base.lr * 2, seed=5),
        base.replace(lr=base.lr / 3, schedule="cosine()"),
    ]


def quiet() -> VmapEngine:
    return VmapEngine(compile="never")
