"""A Ray cluster for tests: one small node, to which a test may add more."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

STORE = 100 * 2**20
"""The bytes of a node's object store."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of one node with one core, kept for all tests of a file."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_worker_niceness", "0")
    found = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": STORE}
    )
    yield found
    ray.shutdown()
    found.shutdown()


@pytest.fixture
def joined(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The cluster, which RAY_ADDRESS names; the connection is left after the test."""
    import ray

    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster
    ray.shutdown()
