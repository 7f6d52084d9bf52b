"""Trains groups on a Ray cluster: one task for each group, sized by resources."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Iterable, Sequence
from typing import Any, Self

from etude.engines.process.engine import cores
from etude.errors import BadValueError, EtudeError, MissingExtraError, shorten
from etude.studies.executors.remote import Lost, RemoteExecutor, RemoteJob, refuse_count
from etude.studies.executors.worker import PlainResult, settings, train_plain, versions, why_not
from etude.tasks.ref import TaskRef

LOCAL = "ray"
"""The address that starts a cluster on this machine."""

STORE = 2**27
"""The bytes of memory in which a cluster that is started here keeps results on their way."""

AHEAD = 2
"""How many groups are handed in for each that there is room for, so that no worker waits."""

LOOK = 5.0
"""After how many seconds the size of the cluster is asked for again."""

KNOCK = 10.0
"""How many seconds a cluster has to answer."""

CHECK = 300.0
"""How many seconds all workers have to import Etude and the tasks before training begins."""


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
        self.address, self.workers, self.cpus = address, workers, cpus
        self._told = settings(engine, cpus)
        self.gpus = gpus
        self._ray, self._ours = _ray(), False
        self._task: Any = None
        self._running: dict[Any, RemoteJob] = {}
        self._room, self._looked = 1, -math.inf

    def __enter__(self) -> Self:
        """Connect to the cluster.

        Raises:
            EtudeError: If there is none at the address.
        """
        if not self._ray.is_initialized():
            self._ours = True
            self._connect()
        if self.gpus is None:
            self.gpus = float(self._total("GPU") >= 1)
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
            room = self._total("CPU") / self.cpus
            if self.gpus:
                room = min(room, self._total("GPU") / self.gpus)
            self._room, self._looked = max(1, int(room)), time.monotonic()
        return AHEAD * self._room

    def check(self, refs: Sequence[TaskRef]) -> None:
        """Check on every node that it has the same versions, and can build the tasks.

        Raises:
            EtudeError: If one cannot.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        told = {**self._told, "versions": versions()}
        now = [TaskRef.of(ref.reference, ref.options).plain() for ref in refs]
        asked = {
            self._ray.remote(why_not)
            .options(
                num_cpus=0,
                max_retries=0,
                name="etude check",
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            )
            .remote(told, now): node
            for node in self._nodes()
            if node["Resources"].get("CPU", 0) >= self.cpus
        }
        _, late = self._ray.wait(list(asked), num_returns=max(1, len(asked)), timeout=CHECK)
        for answer, node in asked.items():
            where = f"node {node['NodeManagerHostname']} of the Ray cluster"
            if answer in late:
                raise EtudeError(f"the {where} has not begun to work after {CHECK:g} seconds")
            try:
                reason = self._ray.get(answer)
            except self._ray.exceptions.RayTaskError as error:
                raise EtudeError(
                    f"the {where} cannot run Etude: {_first(error.cause)}; install the same "
                    "packages there as here"
                ) from error
            except self._ray.exceptions.RayError:
                continue  # the node was lost meanwhile: its groups go to others
            if reason:
                raise EtudeError(reason)

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
        if self._ray.is_initialized():
            for one in self._running:
                self._ray.cancel(one, force=True)
            if self._ours:
                self._ray.shutdown()
        self._running.clear()

    def _got(self, one: Any) -> Sequence[PlainResult] | Lost:
        try:
            found: Sequence[PlainResult] = self._ray.get(one)
        except self._ray.exceptions.RayTaskError as error:
            raise EtudeError(
                f"a Ray worker cannot run Etude: {_first(error.cause)}; install the same packages "
                "there as here"
            ) from error
        except self._ray.exceptions.RayError as error:
            if not self._nodes():
                raise self._gone(error) from error
            return Lost(_first(error))
        return found

    def _connect(self) -> None:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        try:
            if self.address == LOCAL:
                os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
                # Its workers are the training itself, not work in the background.
                os.environ.setdefault("RAY_worker_niceness", "0")
                self._ray.init(
                    address="local",
                    num_cpus=self.cpus * self.workers if self.workers else cores(),
                    object_store_memory=STORE,
                    include_dashboard=False,
                    **quiet,
                )
            else:
                _knock(self.address)
                self._ray.init(address=self.address, **quiet)
        except (OSError, RuntimeError, ValueError, ImportError) as error:
            raise EtudeError(
                f"no Ray cluster can be reached at {self.address!r}: {_first(error)}; start one "
                "with `ray start --head`, or give 'ray' to start one here"
            ) from error

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _total(self, resource: str) -> float:
        return float(self._ray.cluster_resources().get(resource, 0.0))

    def _gone(self, error: BaseException) -> EtudeError:
        return EtudeError(
            f"the connection to the Ray cluster {self.address!r} is lost: {_first(error)}; what "
            "was stored stays: go on with the study when the cluster is there again"
        )


def _knock(address: str) -> None:
    """Raise if nobody listens at an address: Ray itself would try for many minutes.

    Raises:
        OSError: If nobody does.
    """
    known = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    host, colon, port = known.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK).close()


def _first(error: BaseException) -> str:
    """Return the first line of an error, short enough for a message."""
    line = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {shorten(line, 300)}"


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError(
            f"studies on a cluster need Ray ({error}): pip install 'etude[ray]'"
        ) from error
    return ray
