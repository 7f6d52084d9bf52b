"""Studies on Ray: the numbers of this machine, whatever node, worker or driver is lost."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import psutil
import pytest

from etude.errors import EtudeError
from etude.storage.study import StudyDatabase, TrialState
from etude.studies.driver import work
from etude.studies.executors import RayExecutor
from etude.studies.executors.remote import Lost
from etude.studies.plan import StudyPlan
from etude.studies.result import StudyResult
from etude.studies.study import resume, study
from etude.studies.trials import planned_trials
from tests.ray_cluster import STORE

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow

STEPS = [200, 2_000, 2_001, 2_002]
"""The first group ends early: whatever is lost then, a group is in training."""

LONG = {"name": "long", "tasks": "cancer-mlp", "lrs": [0.01, 0.1], "steps": STEPS}
OWN = """
import torch
from etude import Task

def task():
    x = torch.linspace(-1, 1, 64)[:, None]
    return Task(torch.nn.Linear(1, 1), (x, 3 * x), loss=torch.nn.functional.mse_loss)

def broken():
    def loss(output, target):
        raise RuntimeError("no loss today")
    return Task(torch.nn.Linear(1, 1), (torch.ones(8, 1), torch.ones(8, 1)), loss=loss)
"""


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("ETUDE_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture
def storage(tmp_path):
    return tmp_path / "studies.db"


def losses(found):
    return [row.loss for row in found.rows]


def here(plan, storage):
    """The same plan in this process."""
    return study({**plan, "name": "here"}, storage=storage, engine="loop", progress=False)


def driver(storage, plan):
    """Another process that drives a study on the cluster."""
    code = (
        "import json, sys\n"
        "from etude.studies.study import study\n"
        f"study(json.loads(sys.argv[1]), storage={str(storage)!r}, engine='loop', on='auto', "
        "progress=False)\n"
    )
    return subprocess.Popen([sys.executable, "-c", code, json.dumps(plan)], env={**os.environ})


def of_ray():
    """The processes of Ray that this one has started."""
    children = psutil.Process().children(recursive=True)
    return [one for one in children if "ray" in " ".join(one.cmdline()[:4])]


def test_a_cluster_of_its_own_gives_the_numbers_of_this_process_and_ends(storage, tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    plan = {
        "name": "own",
        "tasks": [f"{file}:broken", f"{file}:task", "cancer-mlp"],
        "lrs": [0.1, 1e4],
        "steps": 5,
    }
    found = study(plan, storage=storage, engine="loop", on="ray", workers=1, progress=False)
    same = here(plan, storage)
    assert not ray.is_initialized()
    assert not of_ray()
    assert [str(row.state) for row in found.rows] == ["failed"] * 2 + ["done"] * 4
    assert found.rows == same.rows
    assert "no loss today" in found.rows[0].error
    with StudyDatabase(storage) as database:
        there, local = database.resume("own"), database.resume("here")
        for number in (2, 5):
            one, other = (s.record(s.trial(number)) for s in (there, local))
            assert one.evaluations == other.evaluations or one.status == "diverged"
            assert one.series["loss"].tobytes() == other.series["loss"].tobytes()
        assert there.trial(0).place == local.trial(0).place


def test_a_task_that_is_not_on_the_worker_stops_before_any_training(
    storage, tmp_path, joined, monkeypatch
):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    plan = {"name": "own", "tasks": f"{file}:task", "lrs": [0.1], "steps": 5}
    check = RayExecutor.check

    def removed(self, refs):
        """Check as if the file were on this machine alone."""
        told = [type(one).of(one.reference, one.options) for one in refs]
        file.unlink()
        monkeypatch.setattr("etude.studies.executors.ray.TaskRef.of", lambda r, o: told[0])
        check(self, refs)

    monkeypatch.setattr(RayExecutor, "check", removed)
    with pytest.raises(EtudeError, match=r"own\.py:task' cannot be loaded on the worker") as said:
        study(plan, storage=storage, engine="loop", on="auto", progress=False)
    assert "\n" not in str(said.value)
    with StudyDatabase(storage) as database:
        counts = database.resume("own").counts()
    assert (counts.waiting, counts.failed) == (1, 0)


def test_no_cluster_at_the_address(storage, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(EtudeError, match="no Ray cluster can be reached at 'auto'"):
        study(LONG, storage=storage, engine="loop", on="auto", progress=False)


def test_a_removed_node_costs_its_groups_alone(storage, joined):
    node = joined.add_node(num_cpus=1, object_store_memory=STORE)
    joined.wait_for_nodes()
    plan, lost, stored = StudyPlan(**LONG), [], []
    executor = RayExecutor("auto", "loop")
    ended = executor.ended

    def seen(seconds):
        told = ended(seconds)
        lost.extend(job for job, outcome in told if isinstance(outcome, Lost))
        return told

    def told(done, total, text):
        stored.append(done)
        if len(stored) == 1:
            joined.remove_node(node, allow_graceful=False)

    executor.ended = seen
    with StudyDatabase(storage) as database:
        trials = (one.plain() for one in planned_trials(plan))
        study_ = database.open_study(plan.name, plan.plain(), trials)
        work(study_, executor, on_progress=told)
        found = StudyResult.of(study_)
        assert all(one.attempts == 1 for one in study_.trials())
    assert lost
    assert stored[-1] == found.done == len(found.rows)
    assert losses(found) == losses(here(LONG, storage))


def test_a_killed_driver_is_started_again_and_repeats_no_stored_trial(storage, joined):
    process = driver(storage, LONG)
    done = 0
    while done == 0 and process.poll() is None:
        time.sleep(0.05)
        if storage.exists():
            with StudyDatabase(storage) as database:
                names = [one.name for one in database.studies()]
                done = database.resume("long").counts().done if names else 0
    process.send_signal(signal.SIGKILL)
    process.wait()
    with StudyDatabase(storage) as database:
        before = {
            one.number: one.finished
            for one in database.resume("long").trials(state=TrialState.DONE)
        }
    assert 0 < len(before) < 2 * len(STEPS)
    # The lease of the killed process ends at once, instead of after 60 seconds.
    with closing(sqlite3.connect(storage)) as connection, connection:
        connection.execute("update etude_trials set expires = 0 where state = 'running'")
    found = resume("long", storage=storage, engine="loop", on="auto", progress=False)
    with StudyDatabase(storage) as database:
        after = {one.number: one.finished for one in database.resume("long").trials()}
    assert {number: after[number] for number in before} == before
    assert found.done == 2 * len(STEPS)
    assert losses(found) == losses(here(LONG, storage))


def test_two_drivers_on_one_cluster_share_a_study(storage, joined):
    plan = {**LONG, "steps": list(range(1_000, 1_008))}
    drivers = [driver(storage, plan), driver(storage, plan)]
    assert [one.wait(300) for one in drivers] == [0, 0]
    with StudyDatabase(storage) as database:
        stored = database.resume("long")
        found = StudyResult.of(stored)
        trials = list(stored.trials())
    assert [one.attempts for one in trials] == [1] * 16
    assert len({one.worker for one in trials}) == 2
    assert losses(found) == losses(here(plan, storage))
