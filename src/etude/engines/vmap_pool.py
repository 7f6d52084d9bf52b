"""Stacks in processes: every core trains a stack of its own, compiled once for all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from etude.engines.base import Engine
from etude.engines.process.dispatcher import Work
from etude.engines.process.engine import PoolEngine, cores
from etude.engines.process.worker_pool import WorkerPool, usual_start
from etude.engines.vmap.engine import VmapEngine
from etude.engines.vmap.execution import Mode
from etude.training.request import AdvanceRequest
from etude.training.run import Run


class VmapPoolEngine(PoolEngine):
    """Trains stacks of runs in processes of one thread each.

    What is traced and compiled is so before the processes are forked, and shared by them. Where
    processes cannot be forked, one stack is trained in this one.

    Args:
        workers: How many processes; None for one per core.
        compile: As for the vmap engine.
        keep: Seconds after which the runs' states are sent to the caller's process.

    >>> VmapPoolEngine(workers=2).name
    'vmap pool'
    """

    name: ClassVar[str] = "vmap pool"

    def __init__(
        self, workers: int | None = None, *, compile: Mode = "auto", keep: float = 2.0
    ) -> None:
        super().__init__(workers, keep=keep, start="fork")
        self.inner = VmapEngine(compile)
        self._alone = PoolEngine(workers, keep=keep)

    def close(self) -> None:
        """Forget what was traced and compiled."""
        super().close()
        self._alone.close()
        self.inner.close()

    def advance(self, runs: Sequence[Run], request: AdvanceRequest | int | None = None) -> None:
        """Train every run in a stack of a process; see `Engine.advance`."""
        chosen: Engine | None = None
        if usual_start() != "fork" or any(run.device.type != "cpu" for run in runs):
            chosen = self.inner
        elif self.inner.refused(runs):
            chosen = self._alone
            self.explain(f"vmap pool: {self.inner.refused(runs)}; trained by the pool instead")
        if chosen is not None:
            chosen.advance(runs, request)
            return
        try:
            super().advance(runs, request)
        finally:
            self.dismiss()  # what is compiled next time would not be known to these

    def width(self, runs: Sequence[Run]) -> int:
        """Return how many processes would take some runs further: of one thread each."""
        return min(self.workers or cores(), len(runs))

    def _new_pool(self, runs: Sequence[Run], at_once: int) -> WorkerPool:
        return WorkerPool(runs, "fork", self.inner, at_once)

    def _jobs(self, runs: Sequence[Run], waiting: list[int], request: AdvanceRequest) -> list[Work]:
        """Return the runs of each stack: as many stacks as processes."""
        count = self.width([runs[i] for i in waiting])
        shares = [tuple(waiting[i::count]) for i in range(count)]
        for size in {len(share): share for share in shares}.values():
            self.inner.prepare([runs[i] for i in size], request)
        return [Work(share, request.until, 1) for share in shares]
