"""The pool engine: one process per core; if one dies, only its unsent updates are repeated."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import ClassVar

from etude.engines.base import Engine, check_runs, pending
from etude.engines.loop import LoopEngine
from etude.engines.process.devices import checked_devices, like
from etude.engines.process.dispatcher import Dispatcher, Work
from etude.engines.process.partition import pieces
from etude.engines.process.worker_pool import Start, WorkerPool, can_be_sent, usual_start
from etude.errors import BadValueError
from etude.training.observers import refusal
from etude.training.request import AdvanceRequest
from etude.training.run import Run


def cores() -> int:
    """Return the number of cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # the affinity is known only on Linux
        return os.cpu_count() or 1


class PoolEngine(Engine):
    """Trains the runs in several processes, each with the number of threads of its run.

    The results equal the loop's to the bit. The processes are kept until `close`, because starting
    one takes longer than a short run. If a process dies, its run continues in a new process from
    the last state that it sent to the calling process.

    Args:
        workers: The number of processes; None for as many as the cores allow.
        keep: Seconds after which a run's state is sent to the calling process.
        start: 'fork' or 'spawn'; None forks if that is safe.
        devices: The GPUs, with one process for each, if the runs are on a GPU: as CUDA numbers
            them, or as CUDA_VISIBLE_DEVICES names them. None takes all that are like the runs'
            own, if there are several.

    Raises:
        BadValueError: If a number is out of bounds, or a device is not there.

    >>> PoolEngine(workers=2).name
    'pool'
    """

    name: ClassVar[str] = "pool"

    def __init__(
        self,
        workers: int | None = None,
        *,
        keep: float = 2.0,
        start: Start | None = None,
        devices: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if workers is not None and (isinstance(workers, bool) or workers < 1):
            raise BadValueError(f"workers={workers!r}: give at least 1, or None for one per core")
        if not keep > 0:
            raise BadValueError(f"keep={keep!r}: give seconds above 0")
        self.workers, self.keep, self.start = workers, keep, start
        self.devices = None if devices is None else checked_devices(devices)
        self._pool: WorkerPool | None = None

    @property
    def processes(self) -> list[int]:
        """The process IDs."""
        return [] if self._pool is None else [worker.process.pid for worker in self._pool.workers]

    def close(self) -> None:
        """End the processes."""
        self.dismiss()

    def dismiss(self) -> None:
        """End the processes, but keep the engine's other resources."""
        if self._pool is not None:
            self._pool.close()
        self._pool = None

    def advance(self, runs: Sequence[Run], request: AdvanceRequest | int | None = None) -> None:
        """Train the runs in the processes of the pool; see `Engine.advance`."""
        check_runs(runs)
        request = AdvanceRequest.of(request)
        waiting = pending(runs, request)
        if not waiting or request.stop():
            return
        reason = self.unfit(runs)
        jobs = [] if reason else self._jobs(runs, waiting, request)
        if not reason:
            try:
                pool = self._ready(runs, max(len(job.places) for job in jobs))
            except Exception as error:  # noqa: BLE001  (pickling a task's parts can raise anything)
                failed = "no process can be started"
                if not isinstance(error, OSError):
                    failed = "the task cannot be sent to another process"
                reason = f"{failed} ({error})"
        if reason:
            self.explain(f"pool: {reason}; the runs are trained one after the other instead")
            LoopEngine().advance(runs, request)
            return
        count = self.width([runs[i] for i in waiting])
        ended = False
        try:
            Dispatcher(pool, jobs, count, self.keep, request).work()
            ended = True
        finally:
            pool.runs = ()  # the pool is kept after the call, and would keep all models in memory
            if not ended:  # a late message would be mistaken for one of the next call
                self.dismiss()

    def parallel(self, runs: Sequence[Run]) -> int:
        """Return how many of some runs are trained at the same time, with the loop's bits."""
        return 1 if self.unfit(runs) else self.width(runs)

    def width(self, runs: Sequence[Run]) -> int:
        """Return how many processes would train some runs."""
        if runs[0].device.type == "cuda":
            count = len(self._gpus(runs))
            return min(self.workers or count, count, len(runs))
        threads = max(run.threads for run in runs)
        return min(self.workers or max(1, cores() // threads), len(runs))

    def _gpus(self, runs: Sequence[Run]) -> tuple[str, ...]:
        """Return the GPUs for runs that are on one."""
        return like(runs[0].device) if self.devices is None else self.devices

    def missing(self, runs: Sequence[Run]) -> int:
        """Return how many processes must be started to train some runs."""
        ready = len(self.processes) if self._pool is not None and self._pool.suits(runs) else 0
        return max(0, self.width(runs) - ready)

    def _jobs(self, runs: Sequence[Run], waiting: list[int], request: AdvanceRequest) -> list[Work]:
        """Return the jobs: whole runs, and the pieces of runs that are cut in two."""
        left = [request.target(runs[i].state) - runs[i].step for i in waiting]
        return [
            Work(
                (waiting[place],),
                runs[waiting[place]].step + done,
                runs[waiting[place]].threads,
            )
            for place, done in pieces(left, self.width([runs[i] for i in waiting]))
        ]

    def _ready(self, runs: Sequence[Run], at_once: int) -> WorkerPool:
        """Return a pool that can train these runs: that of the last call, or a new one."""
        if self._pool is not None and self._pool.suits(runs):
            self._pool.set_runs(runs)
            return self._pool
        self.dismiss()
        self._pool = self._new_pool(runs, at_once)
        try:
            # This fails if the task cannot be sent, before any job is assigned.
            self._pool.start_worker()
        except BaseException:
            self.dismiss()
            raise
        return self._pool

    def _new_pool(self, runs: Sequence[Run], at_once: int) -> WorkerPool:
        if runs[0].device.type == "cuda":
            return WorkerPool(runs, "spawn", devices=self._gpus(runs))
        return WorkerPool(runs, self.start or usual_start())

    def unfit(self, runs: Sequence[Run]) -> str:
        """Return why runs cannot be trained in other processes; empty if they can."""
        kinds = {run.device.type for run in runs}
        alone = kinds != {"cuda"} or (self.devices is None and len(self._gpus(runs)) < 2)
        if kinds != {"cpu"} and alone:
            return f"the runs are on {runs[0].device}, which processes would have to share"
        for run in runs:
            if run.state.world.size > 1:
                return f"{run.state.world.size} processes train each run together"
            if reason := refusal(run.observers, "pool"):
                return reason
            spawns = run.device.type != "cpu" or (self.start or usual_start()) == "spawn"
            if spawns and not can_be_sent(run):
                return "the runs have observers or an optimizer that other processes cannot import"
        return ""
