"""One process for each GPU: which GPUs there are, and which of them a process sees."""

import os
from dataclasses import replace

import pytest
import torch
from torch import nn

from etude import Recipe
from etude.engines import PoolEngine
from etude.engines.process import devices
from etude.engines.process.devices import checked_devices, gpu_names, seen_alone
from etude.engines.process.state_transfer import portable, take_back
from etude.engines.process.worker_pool import WorkerPool, _parts
from etude.errors import BadTypeError, BadValueError
from etude.training.run import Run
from tests.helpers import task


@pytest.fixture
def four(monkeypatch):
    """A machine that says it has four GPUs."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,GPU-7f")


def test_the_names_of_the_gpus_are_those_that_cuda_gives_them(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-1b")
    assert gpu_names() == ("3", "GPU-1b")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_names() == ()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert gpu_names() == ("0", "1")


def test_a_device_that_is_not_there_is_refused_and_those_that_are_are_named(four, monkeypatch):
    assert checked_devices(["cuda:0", "GPU-7f"]) == ("0", "GPU-7f")
    with pytest.raises(
        BadValueError, match=r"devices has '9'.*give some of '0', '1', '2', 'GPU-7f'"
    ):
        PoolEngine(devices=["0", "9"])
    with pytest.raises(BadValueError, match="devices is empty"):
        PoolEngine(devices=[])
    with pytest.raises(BadTypeError, match=r"devices='0': give a list of GPUs"):
        PoolEngine(devices="0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(BadValueError, match="for there is none at all"):
        PoolEngine(devices=["0"])


def test_a_process_that_is_started_sees_its_gpu_alone(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with seen_alone("1"):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    with seen_alone(None):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with pytest.raises(KeyError, match="mine"), seen_alone("1"):
        raise KeyError("mine")
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_each_process_gets_the_gpu_that_the_fewest_see():
    pool = WorkerPool([Run(task(), Recipe(steps=8))], "spawn", devices=["0", "1"])
    seen = []
    for _ in range(4):
        seen.append(pool._free_gpu())
        pool.workers.append(type("Handle", (), {"gpu": seen[-1], "job": None})())
    assert seen == ["0", "1", "0", "1"]
    del pool.workers[1]
    assert pool._free_gpu() == "1"
    pool.workers.clear()


def test_a_state_for_another_process_holds_the_random_state_of_its_own_gpu_alone():
    run = Run(task(), Recipe(steps=8))
    plain = run.state_dict()
    assert portable(run)["random"]["accelerators"] == []
    states = [torch.tensor([place], dtype=torch.uint8) for place in range(3)]
    run.state_dict = lambda: {**plain, "random": {**plain["random"], "accelerators": states}}
    assert portable(run)["random"]["accelerators"] == []
    run.state.device = torch.device("cuda", 1)
    assert portable(run)["random"]["accelerators"] == [states[1]]


def test_runs_on_one_gpu_stay_there_and_on_several_they_are_shared_out(monkeypatch):
    runs = [Run(task(), Recipe(lr=lr, steps=8)) for lr in (0.1, 0.2, 0.3)]
    for run in runs:
        run.state.device = torch.device("cuda", 0)
    models = ["A", "A", "B"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(
        torch.cuda, "get_device_name", lambda one: models[getattr(one, "index", one)]
    )
    engine = PoolEngine()
    assert devices.like(runs[0].device) == ("0", "1")
    assert engine.width(runs) == 2
    assert engine.unfit(runs) == ""
    assert PoolEngine(1).width(runs) == 1
    models[1] = "C"
    assert "processes would have to share" in engine.unfit(runs)
    assert PoolEngine(devices=["0", "2"]).unfit(runs) == ""


def test_a_state_from_another_process_is_that_of_the_runs_own_gpu(monkeypatch):
    run = Run(task(), Recipe(steps=8))
    plain = run.state_dict()
    own = [torch.tensor([place], dtype=torch.uint8) for place in range(3)]
    theirs = torch.tensor([9], dtype=torch.uint8)
    monkeypatch.setattr(
        run.state.randomness, "_state", replace(run.state.randomness._state, accelerators=own)
    )
    run.state.device = torch.device("cuda", 1)
    take_back(run, {**plain, "random": {**plain["random"], "accelerators": [theirs]}})
    assert run.state.randomness.tree()["accelerators"] == [own[0], theirs, own[2]]
    assert portable(run)["random"]["accelerators"] == [theirs]


class Held(nn.Linear):
    """A network in the memory of another device."""

    def cpu(self):
        return self.to_empty(device="cpu")


def test_a_network_on_a_gpu_is_sent_from_the_cpu():
    there = Held(3, 2, device="meta")
    sent = _parts(replace(task(), model=there))["model"]
    assert sent.weight.device.type == "cpu"
    assert there.weight.is_meta
    here = nn.Linear(3, 2)
    assert _parts(replace(task(), model=here))["model"] is here
