"""Studies and tunings through Ray's client, at an address such as ray://HOST:PORT, and its GPUs."""

import contextlib
import socket

import pytest

from etude import Recipe, tasks
from etude.engines import RayEngine
from etude.studies.executors import RayExecutor
from etude.studies.executors.ray import AHEAD
from etude.studies.study import study
from etude.tuning.tune import tune
from tests.ray_cluster import STORE

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow


SEES = """
import os
from pathlib import Path

import torch
from etude import Task

def task():
    with Path(__file__).with_name("seen.txt").open("a") as file:
        file.write(os.environ.get("CUDA_VISIBLE_DEVICES", "all") + "\\n")
    x = torch.linspace(-1, 1, 64)[:, None]
    return Task(torch.nn.Linear(1, 1), (x, 3 * x), loss=torch.nn.functional.mse_loss)
"""
"""A task that keeps which GPUs the process sees that builds it."""


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("ETUDE_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture(scope="module")
def address():
    """A cluster of one node that says it has a GPU, reached through the server of Ray's client."""
    from ray.cluster_utils import Cluster

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    node = {
        "num_cpus": 2,
        "num_gpus": 1,
        "object_store_memory": STORE,
        "ray_client_server_port": port,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "0")  # none is there: Ray believes what it is told
        cluster = Cluster(initialize_head=True, head_node_args=node)
    found = f"ray://127.0.0.1:{port}"
    for _ in range(5):  # on a busy machine the server is late, and the client soon gives up
        with contextlib.suppress(ConnectionError):
            ray.init(found, logging_level="error", log_to_driver=False)
            break
    ray.shutdown()
    yield found
    ray.shutdown()
    cluster.shutdown()


def test_a_study_through_the_client_gives_the_numbers_of_this_process(address, tmp_path):
    plan = {"name": "there", "tasks": "cancer-mlp", "lrs": [0.01, 1e4], "steps": [5, 6]}
    storage = tmp_path / "studies.db"
    found = study(plan, storage=storage, engine="loop", on=address, progress=False)
    same = study({**plan, "name": "here"}, storage=storage, engine="loop", progress=False)
    assert not ray.is_initialized()
    assert found.rows == same.rows


def test_a_tuning_through_the_client_is_that_of_the_loop(address):
    task = tasks.get("cancer-mlp")
    recipe = Recipe(**{**task.defaults, "steps": 40})
    there = tune(task, recipe, budget=1.5, engine=RayEngine(address), progress=False)
    here = tune(task, recipe, budget=1.5, engine="loop", progress=False)
    assert (there.lr, there.tied, there.cost) == (here.lr, here.tied, here.cost)
    for one, other in zip(there.trials, here.trials, strict=True):
        assert one.record.series["loss"].tobytes() == other.record.series["loss"].tobytes()


def test_a_group_takes_one_gpu_where_the_cluster_has_any(address, tmp_path):
    file = tmp_path / "own.py"
    file.write_text(SEES)
    plan = {"name": "one", "tasks": f"{file}:task", "lrs": [0.1], "steps": 5}
    executor = RayExecutor(address, "loop")
    with executor:
        assert executor.gpus == 1
        assert executor.slots == AHEAD  # there are two cores, and one GPU
    study(plan, storage=tmp_path / "studies.db", on=RayExecutor(address, "loop"), progress=False)
    assert file.with_name("seen.txt").read_text().split()[-1] == "0"


def test_without_gpus_there_is_a_group_for_each_core(address):
    with RayExecutor(address, "loop", gpus=0) as executor:
        assert executor.slots == 2 * AHEAD
