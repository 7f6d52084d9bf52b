"""The Ray engine: runs are trained on a cluster; a lost worker costs what has not come back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from etude.engines.base import Engine, check_runs, pending
from etude.engines.ray.cluster import LOCAL, RayCluster
from etude.engines.ray.dispatcher import RayDispatcher
from etude.engines.ray.sent import sent_task
from etude.engines.ray.worker import train_piece
from etude.engines.worker_settings import worker_settings
from etude.errors import BadValueError, EtudeError, check_whole, shown
from etude.tasks.task import Task
from etude.training.request import AdvanceRequest
from etude.training.run import Run


class RayEngine(Engine):
    """Trains each run as tasks of a Ray cluster, with the number of threads of the run.

    A worker gets the reference of the task, the recipe, and the state of the run as raw tensors
    through Ray's object store; it sends the state back every few seconds. No live object is sent,
    so the task must have a reference (see `etude.tasks.load`). The results equal the loop's to the
    bit, as far as the machines' processors compute alike. If a worker or a node is lost, its run
    continues elsewhere from the last state that came back.

    Args:
        address: 'ray' starts a cluster on this machine; 'auto' joins the one that runs here or
            that RAY_ADDRESS names; 'ray://HOST:PORT' joins the one there.
        workers: How many runs to train at a time; None for as many as there is room for.
        gpus: The GPUs of one run, such as 0.5; None takes one if the runs are on a GPU.
        keep: Seconds after which a run's state is sent to the calling process.

    Raises:
        MissingExtraError: If Ray is not installed.
        BadValueError: If a number is out of bounds, or the address is none.
    """

    name: ClassVar[str] = "ray"

    def __init__(
        self,
        address: str = LOCAL,
        *,
        workers: int | None = None,
        gpus: float | None = None,
        keep: float = 2.0,
    ) -> None:
        super().__init__()
        if workers is not None:
            workers = check_whole("workers", workers, 1)
        if gpus is not None and (isinstance(gpus, bool) or not 0 < gpus < math.inf):
            raise BadValueError(f"gpus={shown(gpus)} is out of bounds: give more than 0, or None")
        if not keep > 0:
            raise BadValueError(f"keep={keep!r}: give seconds above 0")
        self.workers, self.gpus, self.keep = workers, gpus, keep
        self._cluster = RayCluster(address, workers)
        self._sent: WeakKeyDictionary[Task, Any] = WeakKeyDictionary()

    def open(self) -> None:
        """Connect to the cluster.

        Raises:
            EtudeError: If there is none at the address.
        """
        self._cluster.open()

    def close(self) -> None:
        """Leave the cluster, or end one that was started here."""
        self._sent.clear()
        self._cluster.close()

    def parallel(self, runs: Sequence[Run]) -> int:
        """Return how many of some runs are trained at the same time, with the loop's bits."""
        self.open()
        return min(len(runs), self._width(runs))

    def advance(self, runs: Sequence[Run], request: AdvanceRequest | int | None = None) -> None:
        """Train the runs on the cluster; see `Engine.advance`.

        Raises:
            BadValueError: If no other machine can build the task, or no node can hold a run.
            BadTypeError: If none can build an observer.
            EtudeError: If the cluster is gone, or a run fails.
        """
        check_runs(runs)
        request = AdvanceRequest.of(request)
        waiting = [runs[i] for i in pending(runs, request)]
        if not waiting or request.stop():
            return
        self.open()
        threads, gpus = self._resources(waiting)
        common = [self._common(run.task, threads) for run in waiting]
        self._refuse_small(threads, gpus)
        # Another attempt is made by the dispatcher, from the newest state.
        task = self._cluster.ray.remote(train_piece).options(
            num_cpus=threads, num_gpus=gpus, num_returns=2, max_retries=0, name="etude run"
        )
        RayDispatcher(
            self._cluster, task, common, waiting, self.keep, lambda: self._width(waiting), request
        ).work()

    def _resources(self, runs: Sequence[Run]) -> tuple[int, float]:
        """Return the cores and the GPUs of one run."""
        on_gpu = any(run.device.type != "cpu" for run in runs)
        gpus = (1.0 if self.gpus is None else self.gpus) if on_gpu else 0.0
        return max(run.threads for run in runs), gpus

    def _width(self, runs: Sequence[Run]) -> int:
        room = self._cluster.room(*self._resources(runs))
        return room if self.workers is None else min(self.workers, room)

    def _common(self, task: Task, threads: int) -> list[Any]:
        """Return what every piece of a task needs: put into the object store once.

        Raises:
            EtudeError: If a node cannot build the task, or has other versions.
        """
        if task not in self._sent:
            told, sent = worker_settings(), sent_task(task)
            self._cluster.check(told, [sent["plain"]["ref"]], threads)
            self._sent[task] = [self._cluster.ray.put(one) for one in (told, sent)]
        found: list[Any] = self._sent[task]
        return found

    def _refuse_small(self, threads: int, gpus: float) -> None:
        """Raise if no node can ever train a run, for which Ray would wait forever.

        Raises:
            EtudeError: If none can; the message names what is missing.
        """
        if self._cluster.room(threads, gpus):
            return
        if gpus and not self._cluster.room(threads):
            gpus = 0.0
        nodes = len(self._cluster.nodes())
        if gpus:
            raise EtudeError(
                f"the runs are on a GPU, and none of the {nodes} nodes of the Ray cluster has "
                f"{gpus:g} GPU to give: start a node with `ray start --num-gpus`, or train with "
                "device='cpu'"
            )
        raise EtudeError(
            f"a run takes {threads} cores, and none of the {nodes} nodes of the Ray cluster has as "
            "many: start a larger node, or train with fewer threads (OMP_NUM_THREADS)"
        )
