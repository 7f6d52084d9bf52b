"""What a worker on another machine must know to compute as the calling process, and its check."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from etude import tasks
from etude.errors import EtudeError
from etude.tasks.references.ref import TaskRef
from etude.tasks.table import is_bundled

SAME = ("etude", "torch", "numpy")
"""The packages that must be of one version on all machines: they decide the numbers."""


def worker_settings() -> dict[str, Any]:
    """Return what a worker must know to train as this process would."""
    return {
        "folder": str(Path.cwd()),
        "threads": torch.get_num_threads(),
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def use(told: Mapping[str, Any]) -> None:
    """Make this process compute as the one that called `worker_settings` does."""
    with contextlib.suppress(OSError):  # on another machine there may be no such folder
        os.chdir(told["folder"])
    # The number of threads decides the last bits of large networks.
    torch.set_num_threads(told["threads"])
    torch.set_default_dtype(getattr(torch, told["dtype"]))
    torch.set_float32_matmul_precision(told["precision"])
    torch.use_deterministic_algorithms(told["deterministic"])


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide the numbers."""
    return {name: version(name) for name in SAME}


def why_not(told: Mapping[str, Any], refs: Sequence[Mapping[str, Any]]) -> str:
    """Return why this worker cannot train some tasks as the driver would, '' if it can.

    Args:
        told: What `worker_settings` returned, with the driver's `versions`.
        refs: The plain form of each task reference.
    """
    host = platform.node()
    for name, theirs in told["versions"].items():
        if (ours := versions().get(name)) != theirs:
            return (
                f"the worker on {host} has {name} {ours}, the driver {theirs}, which can give "
                "other numbers: install the same version"
            )
    use(told)
    for plain in refs:
        ref = TaskRef.from_plain(dict(plain), "a task")
        if is_bundled(ref):
            continue
        try:
            tasks.load(ref.reference, **ref.options)
        except EtudeError as error:
            return (
                f"the task {ref.reference!r} cannot be loaded on the worker {host}: {error}; make "
                "the file, and what it imports, available there at the same place"
            )
        if TaskRef.of(ref.reference, ref.options).digest != ref.digest:
            return (
                f"the source of the task {ref.reference!r} on the worker {host} differs from the "
                "driver's: copy it there again"
            )
    return ""
