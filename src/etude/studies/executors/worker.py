"""What a worker in another process or on another machine does: plain values in, plain values out.

A worker gets task references, recipes and settings, never a live object. It sends a Record back as
the bytes of its file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from etude.engines import ENGINES, AutoEngine, Engine, LoopEngine, RayEngine, engine_for
from etude.engines.process.engine import PoolEngine
from etude.engines.vmap_pool import VmapPoolEngine
from etude.engines.worker_settings import use, worker_settings
from etude.errors import BadValueError, unknown_name
from etude.storage.study.objects import record_bytes, record_of
from etude.studies.groups import GroupTrainer, TrainedTrial
from etude.studies.trials import PlannedTrial

PlainResult = tuple[bytes | None, str, str]
"""What came of a trial: the bytes of its Record, its error, the error's place."""


def settings(engine: str, cores: int) -> dict[str, Any]:
    """Return what a worker must know to train as this process would.

    Args:
        engine: The name of the engine.
        cores: How many cores a worker may use.

    Raises:
        UnknownNameError: If there is no engine of this name.
        BadValueError: If the engine would itself hand runs to a cluster.
    """
    if engine not in ENGINES:
        raise unknown_name("engine", engine, ENGINES)
    if engine == RayEngine.name:
        raise BadValueError(
            "engine='ray' is for the trials of one tuning; a study trains on a Ray cluster with "
            "on='ray', 'auto' or 'ray://HOST:PORT'"
        )
    # The runs of a pool have one thread each.
    threads = {"threads": 1} if engine == PoolEngine.name else {}
    return {"engine": engine, "cores": cores, **worker_settings(), **threads}


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
