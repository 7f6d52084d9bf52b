"""Trains groups on a Ray cluster: one task for each group, sized by resources."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from typing import Any, Self

from etude.engines.ray.cluster import LOCAL, RayCluster, cannot_run, first_line
from etude.errors import BadValueError, EtudeError
from etude.studies.executors.remote import Lost, RemoteExecutor, RemoteJob, refuse_count
from etude.studies.executors.worker import PlainResult, settings, train_plain
from etude.tasks.references.ref import TaskRef

AHEAD = 2
"""How many groups are handed in for each that there is room for, so that no worker waits."""

LOOK = 5.0
"""After how many seconds the size of the cluster is asked for again."""


class RayExecutor(RemoteExecutor):
    """Trains each group as one Ray task.

    If Ray runs in this process already, that connection is used and left open.

    Args:
        address: 'ray' starts a cluster on this machine; 'auto' joins the one that runs here or
            that RAY_ADDRESS names; 'ray://HOST:PORT' joins the one there.
        engine: The name of the engine.
        workers: How many groups to train at a time; None for as many as there is room for.
        cpus: The cores of one group.
        gpus: The GPUs of one group, such as 0.5; None takes one where the cluster has any.

    Raises:
        MissingExtraError: If Ray is not installed.
        BadValueError: If a number is out of bounds.
        UnknownNameError: If there is no engine of this name.
    """

    def __init__(
        self,
        address: str = LOCAL,
        engine: str = "auto",
        *,
        workers: int | None = None,
        cpus: int = 1,
        gpus: float | None = None,
    ) -> None:
        super().__init__()
        if workers is not None:
            refuse_count("workers", workers)
        refuse_count("cpus", cpus)
        if gpus is not None and (isinstance(gpus, bool) or not 0 <= gpus < math.inf):
            raise BadValueError(f"gpus={gpus!r} is out of bounds: give at least 0")
        self.workers, self.cpus = workers, cpus
        self._told = settings(engine, cpus)
        self.gpus = gpus
        self._cluster = RayCluster(address, cpus * workers if workers else None)
        self._ray = self._cluster.ray
        self._task: Any = None
        self._running: dict[Any, RemoteJob] = {}
        self._room, self._looked = 1, -math.inf

    def __enter__(self) -> Self:
        """Connect to the cluster.

        Raises:
            EtudeError: If there is none at the address.
        """
        self._cluster.open()
        if self.gpus is None:
            self.gpus = float(self._cluster.total("GPU") >= 1)
        # Another attempt is started by the driver, which can tell which trial kills its worker.
        self._task = self._ray.remote(train_plain).options(
            num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0, name="etude group"
        )
        return self

    @property
    def slots(self) -> int:
        """Twice what the cluster has room for now, or the number of workers that was given."""
        if self.workers is not None:
            return self.workers
        if time.monotonic() - self._looked > LOOK:
            room = self._cluster.total("CPU") / self.cpus
            if self.gpus:
                room = min(room, self._cluster.total("GPU") / self.gpus)
            self._room, self._looked = max(1, int(room)), time.monotonic()
        return AHEAD * self._room

    def check(self, refs: Sequence[TaskRef]) -> None:
        """Check on every node that it has the same versions, and can build the tasks.

        Raises:
            EtudeError: If one cannot.
        """
        now = [TaskRef.of(ref.reference, ref.options).plain() for ref in refs]
        self._cluster.check(self._told, now, self.cpus)

    def start(self, job: RemoteJob) -> None:
        """Hand a job to Ray."""
        try:
            self._running[self._task.remote(self._told, list(job.trials))] = job
        except (self._ray.exceptions.RayError, ConnectionError) as error:
            raise self._gone(error) from error

    def ended(self, seconds: float) -> Iterable[tuple[RemoteJob, Sequence[PlainResult] | Lost]]:
        """Return the jobs that have ended."""
        open_ = list(self._running)
        if not open_:
            return []
        try:
            ready, _ = self._ray.wait(open_, num_returns=1, timeout=seconds)
            if ready:  # and all others that are there
                ready, _ = self._ray.wait(open_, num_returns=len(open_), timeout=0)
            return [(self._running.pop(one), self._got(one)) for one in ready]
        except ConnectionError as error:
            raise self._gone(error) from error

    def close(self) -> None:
        """Cancel what is in training, and leave the cluster, or end one that was started here."""
        if self._cluster.is_open:
            for one in self._running:
                self._ray.cancel(one, force=True)
        self._cluster.close()
        self._running.clear()

    def _got(self, one: Any) -> Sequence[PlainResult] | Lost:
        try:
            found: Sequence[PlainResult] = self._ray.get(one)
        except self._ray.exceptions.RayTaskError as error:
            raise cannot_run("a Ray worker", error) from error
        except self._ray.exceptions.RayError as error:
            if not self._cluster.nodes():
                raise self._gone(error) from error
            return Lost(first_line(error))
        return found

    def _gone(self, error: BaseException) -> EtudeError:
        kept = "what was stored stays: go on with the study when the cluster is there again"
        return self._cluster.gone(error, kept)
