"""What a worker in another process or on another machine does: plain values in, plain values out.

A worker gets task references, recipes and settings, never a live object. It sends a Record back as
the bytes of its file.
"""

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
from etude.engines import ENGINES, AutoEngine, Engine, LoopEngine, engine_for
from etude.engines.process.engine import PoolEngine
from etude.engines.vmap_pool import VmapPoolEngine
from etude.errors import EtudeError, unknown_name
from etude.storage.study.objects import record_bytes, record_of
from etude.studies.groups import GroupTrainer, TrainedTrial
from etude.studies.trials import PlannedTrial
from etude.tasks.ref import TaskRef
from etude.tasks.table import is_bundled

PlainResult = tuple[bytes | None, str, str]
"""What came of a trial: the bytes of its Record, its error, the error's place."""

SAME = ("etude", "torch", "numpy")
"""The packages that must be of one version on all machines: they decide the numbers."""


def settings(engine: str, cores: int) -> dict[str, Any]:
    """Return what a worker must know to train as this process would.

    Args:
        engine: The name of the engine.
        cores: How many cores a worker may use.

    Raises:
        UnknownNameError: If there is no engine of this name.
    """
    if engine not in ENGINES:
        raise unknown_name("engine", engine, ENGINES)
    return {
        "engine": engine,
        "cores": cores,
        "folder": str(Path.cwd()),
        "threads": torch.get_num_threads(),
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def use(told: Mapping[str, Any]) -> None:
    """Make this process compute as the one that called `settings` does."""
    with contextlib.suppress(OSError):  # on another machine there may be no such folder
        os.chdir(told["folder"])
    # The number of threads decides the last bits of large networks.
    torch.set_num_threads(1 if told["engine"] == "pool" else told["threads"])
    torch.set_default_dtype(getattr(torch, told["dtype"]))
    torch.set_float32_matmul_precision(told["precision"])
    torch.use_deterministic_algorithms(told["deterministic"])


def engine_within(name: str, cores: int) -> Engine:
    """Return an engine that uses so many cores.

    With one core, the pool's runs are trained by the loop, with one thread as in the pool: the
    bits are the same, and no process is started.

    >>> engine_within("auto", 1).name, engine_within("pool", 1).name
    ('auto', 'loop')
    """
    if name == "auto":
        return AutoEngine(workers=cores)
    if name == "pool":
        return LoopEngine() if cores == 1 else PoolEngine(workers=cores)
    if name == "vmap pool":
        return VmapPoolEngine(workers=cores)
    return engine_for(name)


class _Kept:
    """The trainer of this process: its engine and task serve the next group too."""

    trainer: GroupTrainer | None = None
    key: tuple[str, int] | None = None


def train_plain(told: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]) -> list[PlainResult]:
    """Train a group of trials, and return what came of each.

    Args:
        told: What `settings` returned.
        trials: The plain form of each trial.
    """
    try:
        use(told)
        planned = [PlannedTrial.from_plain(one, f"trial {i}") for i, one in enumerate(trials)]
        found = _trainer(told["engine"], told["cores"]).train(planned)
    except Exception as error:  # noqa: BLE001  (the driver is told of it, whatever it is)
        found = [TrainedTrial.failed(error)] * len(trials)
    return [
        (None if one.record is None else record_bytes(one.record), one.error, one.place)
        for one in found
    ]


def _trainer(engine: str, cores: int) -> GroupTrainer:
    if _Kept.trainer is None or _Kept.key != (engine, cores):
        if _Kept.trainer is not None:
            _Kept.trainer.close()
        _Kept.trainer = GroupTrainer(engine_within(engine, cores))
        _Kept.key = engine, cores
    return _Kept.trainer


def trained(plain: PlainResult) -> TrainedTrial:
    """Return what `train_plain` told of one trial.

    Raises:
        StorageError: If its record cannot be read.
    """
    content, error, place = plain
    record = None if content is None else record_of(content, "the record that a worker sent")
    return TrainedTrial(record, error, place)


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide the numbers."""
    return {name: version(name) for name in SAME}


def why_not(told: Mapping[str, Any], refs: Sequence[Mapping[str, Any]]) -> str:
    """Return why this worker cannot train some tasks as the driver would, '' if it can.

    Args:
        told: What `settings` returned, with the driver's `versions`.
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
