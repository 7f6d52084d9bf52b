"""Training tasks: `Task`, the table of named tasks, and tasks in the user's own files.

Importing this package loads neither torch nor any data: each name is loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from etude.torch_version import require_torch

if TYPE_CHECKING:
    from etude.tasks.reference import load
    from etude.tasks.table import TaskRow, get, rows
    from etude.tasks.task import Task

require_torch()

__all__ = ["Task", "TaskRow", "get", "load", "rows"]

_MODULES = {
    "Task": "etude.tasks.task",
    "TaskRow": "etude.tasks.table",
    "get": "etude.tasks.table",
    "load": "etude.tasks.reference",
    "rows": "etude.tasks.table",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
