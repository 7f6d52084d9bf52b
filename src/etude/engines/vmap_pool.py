"""Stacks in processes: every core trains its own stack, and all use the same compiled program."""

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
    """Trains stacks of runs in processes with one thread each.

    The program is traced and compiled before the processes are forked, so all of them share it.
    If processes cannot be forked, one stack is trained in the calling process.

    Args:
        workers: The number of processes; None for one per core.
        compile: As for the vmap engine.
        keep: Seconds after which the states of the runs are sent to the calling process.

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
        """End the processes, and free the traced and compiled programs."""
        super().close()
        self._alone.close()
        self.inner.close()

    def advance(self, runs: Sequence[Run], request: AdvanceRequest | int | None = None) -> None:
        """Train every run in a stack in one of the processes; see `Engine.advance`."""
        chosen: Engine | None = None
        if usual_start() != "fork" or any(run.device.type != "cpu" for run in runs):
            chosen = self.inner
        elif self.inner.why_not_stacked(runs):
            chosen = self._alone
            self.explain(
                f"vmap pool: {self.inner.why_not_stacked(runs)}; trained by the pool instead"
            )
        if chosen is not None:
            chosen.advance(runs, request)
            return
        try:
            super().advance(runs, request)
        finally:
            self.dismiss()  # they would not have what is compiled later

    def parallel(self, runs: Sequence[Run]) -> int:
        """Return 1: stacks have the loop's numbers up to roundoff, not its bits."""
        return min(1, len(runs))

    def width(self, runs: Sequence[Run]) -> int:
        """Return how many processes would train some runs, with one thread each."""
        return min(self.workers or cores(), len(runs))

    def _new_pool(self, runs: Sequence[Run], at_once: int) -> WorkerPool:
        return WorkerPool(runs, "fork", self.inner, at_once)

    def _jobs(self, runs: Sequence[Run], waiting: list[int], request: AdvanceRequest) -> list[Work]:
        """Return one job per stack, as many stacks as processes."""
        count = self.width([runs[i] for i in waiting])
        shares = [tuple(waiting[i::count]) for i in range(count)]
        for size in {len(share): share for share in shares}.values():
            self.inner.prepare([runs[i] for i in size], request)
        # A stack goes on until its furthest run has come as far as is asked.
        until = max(request.target(runs[i].state) for i in waiting)
        return [Work(share, until, 1) for share in shares]
