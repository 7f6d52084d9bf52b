"""A connection to a Ray cluster: join or start one, see its nodes, check that they can train."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from etude.engines.process.engine import cores
from etude.engines.worker_settings import versions, why_not
from etude.errors import BadValueError, EtudeError, MissingExtraError, shorten, shown

LOCAL = "ray"
"""The address that starts a cluster on this machine."""

STORE = 2**27
"""The bytes of memory in which a cluster that is started here keeps results on their way."""

KNOCK = 10.0
"""How many seconds a cluster has to answer."""

CHECK = 300.0
"""How many seconds all workers have to import Etude and the tasks before training begins."""


class RayCluster:
    """A connection to a Ray cluster.

    If Ray runs in this process already, that connection is used and left open.

    Args:
        address: 'ray' starts a cluster on this machine; 'auto' joins the one that runs here or
            that RAY_ADDRESS names; 'ray://HOST:PORT' joins the one there.
        cpus: The cores of a cluster that is started here; None for those of this process.

    Raises:
        MissingExtraError: If Ray is not installed.
        BadValueError: If the address is none of these.
    """

    def __init__(self, address: str = LOCAL, cpus: int | None = None) -> None:
        if not is_address(address):
            raise BadValueError(
                f"{shown(address)} is no Ray cluster: give 'ray', 'auto' or 'ray://HOST:PORT'"
            )
        self.address, self.cpus = address, cpus
        self.ray, self._ours = _ray(), False

    def open(self) -> None:
        """Connect to the cluster, unless that was done.

        Raises:
            EtudeError: If there is none at the address.
        """
        if self.ray.is_initialized():
            return
        self._ours = True
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        try:
            if self.address == LOCAL:
                os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
                # Its workers are the training itself, not work in the background.
                os.environ.setdefault("RAY_worker_niceness", "0")
                self.ray.init(
                    address="local",
                    num_cpus=self.cpus or cores(),
                    object_store_memory=STORE,
                    include_dashboard=False,
                    **quiet,
                )
            else:
                _knock(self.address)
                self.ray.init(address=self.address, **quiet)
        except (OSError, RuntimeError, ValueError, ImportError) as error:
            raise EtudeError(
                f"no Ray cluster can be reached at {self.address!r}: {first_line(error)}; start "
                "one with `ray start --head`, or give 'ray' to start one here" + self._token_hint()
            ) from error

    def _token_hint(self) -> str:
        """Return what to try where Ray's client says nothing of a token that it did not send."""
        if not self.address.startswith("ray://") or os.environ.get("RAY_AUTH_MODE") == "token":
            return ""
        return "; if the cluster asks for a token, set RAY_AUTH_MODE=token here"

    def close(self) -> None:
        """Leave the cluster, or end one that was started here."""
        if self._ours and self.ray.is_initialized():
            self.ray.shutdown()
        self._ours = False

    @property
    def is_open(self) -> bool:
        """Whether this process is connected."""
        found: bool = self.ray.is_initialized()
        return found

    def nodes(self) -> list[dict[str, Any]]:
        """Return the nodes that are alive."""
        return [node for node in self.ray.nodes() if node["Alive"]]

    def total(self, resource: str) -> float:
        """Return how much of a resource, such as 'GPU', the whole cluster has."""
        return float(self.ray.cluster_resources().get(resource, 0.0))

    def room(self, cpus: float, gpus: float = 0.0) -> int:
        """Return how many tasks of some cores and GPUs the nodes can do at the same time."""
        return sum(_fits(node["Resources"], cpus, gpus) for node in self.nodes())

    def check(
        self, told: Mapping[str, Any], refs: Sequence[Mapping[str, Any]], cpus: float
    ) -> None:
        """Check on every node that it has the same versions, and can build some tasks.

        Args:
            told: What `worker_settings` returned.
            refs: The plain form of each task reference.
            cpus: The cores that one task takes: nodes with fewer are left out.

        Raises:
            EtudeError: If one cannot.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        asked = {
            self.ray.remote(why_not)
            .options(
                num_cpus=0,
                max_retries=0,
                name="etude check",
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            )
            .remote({**told, "versions": versions()}, list(refs)): node
            for node in self.nodes()
            if node["Resources"].get("CPU", 0) >= cpus
        }
        _, late = self.ray.wait(list(asked), num_returns=max(1, len(asked)), timeout=CHECK)
        for answer, node in asked.items():
            where = f"node {node['NodeManagerHostname']} of the Ray cluster"
            if answer in late:
                raise EtudeError(f"the {where} has not begun to work after {CHECK:g} seconds")
            try:
                reason = self.ray.get(answer)
            except self.ray.exceptions.RayTaskError as error:
                raise cannot_run(f"the {where}", error) from error
            except self.ray.exceptions.RayError:
                continue  # the node was lost meanwhile: its work goes to others
            if reason:
                raise EtudeError(reason)

    def gone(self, error: BaseException, what_next: str) -> EtudeError:
        """Return the error after the connection was lost.

        Args:
            error: What was raised.
            what_next: What is kept, and what to do.
        """
        return EtudeError(
            f"the connection to the Ray cluster {self.address!r} is lost: {first_line(error)}; "
            f"{what_next}"
        )


def is_address(text: object) -> bool:
    """Return whether a text names a Ray cluster.

    >>> is_address("auto"), is_address("ray://10.0.0.7:10001"), is_address("slurm")
    (True, True, False)
    """
    return isinstance(text, str) and (text in (LOCAL, "auto") or text.startswith("ray://"))


def cannot_run(who: str, error: Any) -> EtudeError:
    """Return the error if a worker failed before it ran a function of Etude."""
    return EtudeError(
        f"{who} cannot run Etude: {first_line(error.cause)}; install the same packages there as "
        "here"
    )


def first_line(error: BaseException) -> str:
    r"""Return the first line of an error, short enough for a message.

    >>> first_line(OSError("no route\nTraceback ..."))
    'OSError: no route'
    """
    line = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {shorten(line, 300)}"


def _fits(resources: Mapping[str, float], cpus: float, gpus: float) -> int:
    """Return how many tasks fit on a node.

    >>> _fits({"CPU": 4.0, "GPU": 1.0}, 1, 0), _fits({"CPU": 4.0, "GPU": 1.0}, 1, 0.5)
    (4, 2)
    """
    needs = (("CPU", cpus), ("GPU", gpus))
    fit = [math.floor(resources.get(name, 0.0) / need + 1e-9) for name, need in needs if need]
    return min(fit, default=0)


def _knock(address: str) -> None:
    """Raise if nobody listens at an address: Ray itself would try for many minutes.

    Raises:
        OSError: If nobody does.
    """
    known = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    host, colon, port = known.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK).close()


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError(
            f"training on a cluster needs Ray ({error}): pip install 'etude[ray]'"
        ) from error
    return ray
