"""Training tasks: `Task`, the table of named tasks, and tasks in the user's own files.

Importing this package loads neither torch nor any data: each name is loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from etude.lazy_names import lazy_names
from etude.torch_version import require_torch

if TYPE_CHECKING:
    from etude.tasks.references.ref import TaskRef
    from etude.tasks.references.reference import load
    from etude.tasks.table import TaskRow, get, rows
    from etude.tasks.task import Task

require_torch()

__all__ = ["Task", "TaskRef", "TaskRow", "get", "load", "rows"]

_MODULES = {
    "Task": "etude.tasks.task",
    "TaskRef": "etude.tasks.references.ref",
    "TaskRow": "etude.tasks.table",
    "get": "etude.tasks.table",
    "load": "etude.tasks.references.reference",
    "rows": "etude.tasks.table",
}

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
