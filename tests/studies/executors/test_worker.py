"""A worker gets plain values, trains as the driver would, and sends plain values back."""

import json

import pytest
import torch

from etude.engines import ENGINES
from etude.engines.worker_settings import use, versions, why_not
from etude.errors import BadValueError, UnknownNameError
from etude.studies.executors.worker import engine_within, settings, train_plain, trained
from etude.studies.groups import GroupTrainer
from etude.studies.plan import StudyPlan
from etude.studies.trials import planned_trials
from etude.tasks.references.ref import TaskRef

OWN = """
import torch
from etude import Task

def task():
    x = torch.linspace(-1, 1, 64)[:, None]
    return Task(torch.nn.Linear(1, 1), (x, 3 * x), loss=torch.nn.functional.mse_loss)
"""


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_worker_gives_the_records_of_the_driver():
    plan = StudyPlan(name="a", tasks="cancer-mlp", lrs=[0.01, 1e30], steps=6)
    planned = planned_trials(plan)
    told = json.loads(json.dumps(settings("loop", 1)))
    plain = json.loads(json.dumps([one.plain() for one in planned]))
    found = [trained(one) for one in train_plain(told, plain)]
    for one, here in zip(found, GroupTrainer("loop").train(planned), strict=True):
        assert repr(one.record.evaluations) == repr(here.record.evaluations)  # NaN too
        assert one.record.status == here.record.status
        assert one.record.recipe == here.record.recipe
        for name, values in here.record.series.items():
            assert one.record.series[name].tobytes() == values.tobytes()


def test_an_error_comes_back_as_text():
    plain = {"task": {"reference": "no-such-task"}, "recipe": {"lr": 0.1}}
    (one,) = train_plain(settings("loop", 1), [plain])
    assert trained(one).record is None
    assert "no-such-task" in trained(one).error


def test_a_worker_computes_in_the_drivers_precision_and_threads():
    told = {**settings("loop", 1), "threads": 2, "dtype": "float64", "precision": "high"}
    before = torch.get_float32_matmul_precision()
    try:
        use(told)
        assert torch.get_num_threads() == 2
        assert torch.get_default_dtype() == torch.float64
        assert torch.get_float32_matmul_precision() == "high"
        use(settings("pool", 1))  # its runs have one thread each
        assert torch.get_num_threads() == 1
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("name", [name for name in ENGINES if name != "ray"])
def test_every_engine_can_be_kept_within_one_core(name):
    engine = engine_within(name, 1)
    assert getattr(engine, "workers", 1) == 1 or name == "vmap"
    engine.close()


def test_an_unknown_engine_is_refused():
    with pytest.raises(UnknownNameError, match="unknown engine 'lop'"):
        settings("lop", 1)


def test_a_worker_of_a_study_does_not_hand_its_runs_to_a_cluster():
    with pytest.raises(BadValueError, match="a study trains on a Ray cluster with on='ray'"):
        settings("ray", 1)


def test_a_worker_says_why_it_cannot_train(tmp_path):
    told = {**settings("loop", 1), "versions": versions()}
    file = tmp_path / "own.py"
    file.write_text(OWN)
    ref = TaskRef.of(f"{file}:task", {})
    assert why_not(told, [TaskRef.of("digits-cnn", {}).plain(), ref.plain()]) == ""
    file.write_text(OWN + "# changed\n")
    assert "differs from the driver's" in why_not(told, [ref.plain()])
    file.unlink()
    said = why_not(told, [ref.plain()])
    assert "cannot be loaded on the worker" in said
    assert "there is no Python file" in said
    older = {**told, "versions": {**versions(), "torch": "1.0"}}
    assert "the driver 1.0" in why_not(older, [])
