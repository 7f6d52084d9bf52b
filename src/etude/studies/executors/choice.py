"""Chooses the executor that a text names."""

from __future__ import annotations

from etude.engines import ENGINES, Engine
from etude.engines.ray.cluster import is_address
from etude.errors import BadTypeError, BadValueError, shown, unknown_name
from etude.studies.executors.base import Executor
from etude.studies.executors.here import HereExecutor
from etude.studies.executors.processes import ProcessExecutor
from etude.studies.executors.ray import RayExecutor


def executor_for(
    on: str | Executor = "local", engine: str | Engine = "auto", workers: int | None = None
) -> Executor:
    """Return an executor.

    Args:
        on: 'local': this machine. 'ray': a Ray cluster on this machine, which is started and
            stopped. 'auto': the Ray cluster that runs here, or that RAY_ADDRESS names.
            'ray://HOST:PORT': the one there. An Executor is returned itself.
        engine: The engine that trains a group; an Engine of one's own only in this process.
        workers: How many groups to train at a time, each by one process; None trains one after
            the other in this process, where the engine uses all cores. On Ray: as many as the
            cluster has room for.

    Raises:
        BadValueError: If there is no such place, or the number of workers is out of bounds.
        BadTypeError: If the engine cannot be sent to another process.
        UnknownNameError: If there is no engine of this name.
        MissingExtraError: If Ray is not installed.

    >>> executor_for("local", "loop").slots
    1
    """
    if isinstance(on, Executor):
        return on
    if on != "local" and not is_address(on):
        raise BadValueError(
            f"on={shown(on)} is no place to train: give 'local', 'ray', 'auto' or 'ray://HOST:PORT'"
        )
    if isinstance(engine, str) and engine not in ENGINES:
        raise unknown_name("engine", engine, ENGINES)
    if on == "local" and workers is None:
        return HereExecutor(engine)
    if not isinstance(engine, str):
        raise BadTypeError(
            f"engine={shown(engine)} cannot be sent to another process: give its name"
        )
    if on == "local":
        assert workers is not None
        return ProcessExecutor(workers, engine)
    return RayExecutor(on, engine, workers=workers)
