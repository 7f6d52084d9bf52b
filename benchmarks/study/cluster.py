"""Ray on this machine against the same workers without Ray."""

from __future__ import annotations

import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import ray

from etude.engines.ray.cluster import STORE
from etude.studies.executors import Executor, ProcessExecutor, RayExecutor
from etude.studies.study import study

WORKERS = 2
ENGINE = "loop"
PLAN = {
    "name": "cluster",
    "tasks": "digits-cnn",
    "lrs": {"from": 1e-4, "to": 1e-2, "points": 32},
    "seeds": [0, 1, 2, 3],
    "steps": 150,
}
SHORT = {**PLAN, "tasks": "cancer-mlp", "steps": 2, "seeds": list(range(16))}


def spent(plan: dict[str, Any], executor: Executor) -> float:
    """Return the seconds of a study whose workers are there already."""
    with tempfile.TemporaryDirectory() as name:
        started = time.perf_counter()
        found = study(plan, storage=Path(name) / "studies.db", on=executor, progress=False)
        assert found.done == len(found.rows)
        return time.perf_counter() - started


class _Open(ProcessExecutor):
    """Keeps its processes from one study to the next, as a cluster does."""

    def close(self) -> None:
        """Keep them."""


def measure() -> dict[str, Any]:
    """Return the seconds of both, in turns, and of trials that are hardly trained."""
    ray.init(
        address="local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False,
        object_store_memory=STORE, logging_level=logging.ERROR,
    )  # fmt: skip
    here = _Open(WORKERS, ENGINE)
    found: dict[str, Any] = {"local": [], "ray": [], "short": {}}
    try:
        for executor in (here, RayExecutor("auto", ENGINE)):
            spent({**PLAN, "steps": 2}, executor)  # the workers import torch
        for _ in range(2):
            found["local"].append(spent(PLAN, here))
            found["ray"].append(spent(PLAN, RayExecutor("auto", ENGINE)))
        found["short"] = {
            "local": spent(SHORT, here),
            "ray": spent(SHORT, RayExecutor("auto", ENGINE)),
            "trials": 32 * 16,
        }
    finally:
        ProcessExecutor.close(here)
        ray.shutdown()
    return found


def page(found: dict[str, Any]) -> list[str]:
    """Return the lines of this section."""
    local, there, short = min(found["local"]), min(found["ray"]), found["short"]
    return [
        "## Ray on one machine", "",
        f"128 trials of digits-cnn by {WORKERS} workers with the plain loop, in turns, the better "
        f"of two rounds: {local:.2f} s in processes, {there:.2f} s on Ray: {local / there:.2f} of "
        "the local speed (aim: at least 0.9).", "",
        f"{short['trials']} trials of 2 updates: {short['ray'] / short['trials'] * 1e3:.1f} ms a "
        f"trial on Ray, {short['local'] / short['trials'] * 1e3:.1f} ms in processes (aim: at most "
        "100 ms).",
    ]  # fmt: skip
