"""A study: every trial once, with the numbers of `train`, whatever interrupts it."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest

import etude
from etude import tasks
from etude.errors import StorageError, UnknownNameError
from etude.report import html, present
from etude.storage.study import StudyDatabase, TrialState
from etude.studies import groups
from etude.studies.driver import work
from etude.studies.plan import StudyPlan
from etude.studies.result import StudyResult
from etude.studies.study import resume, study
from etude.studies.trials import planned_trials

PLAN = {
    "name": "rates",
    "tasks": ["cancer-mlp"],
    "lrs": [0.001, 0.1, 1e4],
    "seeds": [0, 1],
    "steps": 12,
}

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


@pytest.fixture
def storage(tmp_path):
    return tmp_path / "studies.db"


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("ETUDE_STATE_DIR", str(tmp_path / "state"))


def losses(found):
    return [row.loss for row in found.rows]


def test_each_trial_is_the_run_that_train_makes(storage):
    found = study(PLAN, storage=storage, engine="loop", progress=False)
    assert [row.state for row in found.rows] == [TrialState.DONE] * 6
    for row, planned in zip(found.rows, planned_trials(StudyPlan(**PLAN)), strict=True):
        record = etude.train(tasks.get("cancer-mlp"), planned.recipe)
        assert row.loss == record.valid_loss
        assert row.metric == record.valid_metric
        assert row.diverged == (record.status == "diverged")
        if not row.diverged:
            assert row.untrained_loss == record.evaluations[0].loss
    with StudyDatabase(storage) as database:
        stored = database.resume("rates")
        record = stored.record(stored.trial(2))
    assert (record.recipe, record.valid_loss) == (
        planned_trials(StudyPlan(**PLAN))[2].recipe,
        found.rows[2].loss,
    )


def test_the_same_call_again_trains_nothing_and_gives_the_same(storage, monkeypatch):
    first = study(PLAN, storage=storage, engine="loop", progress=False)

    def none(*_, **__):
        raise AssertionError("nothing is left to train")

    monkeypatch.setattr(groups, "train_many", none)
    assert study(PLAN, storage=storage, engine="loop", progress=False) == first
    assert resume("rates", storage=storage, progress=False) == first


def test_a_result_before_the_end_says_what_is_not_done(storage):
    with StudyDatabase(storage) as database:
        stored = database.create(
            "rates",
            StudyPlan(**PLAN).plain(),
            [t.plain() for t in planned_trials(StudyPlan(**PLAN))],
        )
        found = StudyResult.of(stored)
    assert found.done == 0
    assert found.summaries()[0].optimum is None
    assert "0 of 6 trials done" in present(found).lede
    assert "Not done" in {fact.name for fact in present(found).facts}


def test_an_interruption_puts_the_group_back_and_the_rest_is_not_repeated(storage, monkeypatch):
    plan = {**PLAN, "steps": [6, 12]}
    real, calls = groups.train_many, []

    def stop(task, recipes, engine, **more):
        calls.append(len(recipes))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(task, recipes, engine, **more)

    monkeypatch.setattr(groups, "train_many", stop)
    with pytest.raises(KeyboardInterrupt, match=r"^interrupted; 6 of 12 trials are stored"):
        study(plan, storage=storage, engine="loop", progress=False)
    with StudyDatabase(storage) as database:
        counts = database.resume("rates").counts()
    assert (counts.done, counts.waiting, counts.running) == (6, 6, 0)
    found = resume("rates", storage=storage, engine="loop", progress=False)
    assert calls == [6, 6, 6]
    undisturbed = study({**plan, "name": "other"}, storage=storage, engine="loop", progress=False)
    assert losses(found) == losses(undisturbed)


@pytest.mark.slow
def test_a_killed_driver_loses_nothing_but_its_group(storage, tmp_path):
    plan = {**PLAN, "steps": [40, 41, 42, 43, 44, 45], "lrs": [0.01, 0.1]}
    code = (
        "import json, sys\n"
        "from etude.studies.study import study\n"
        f"study(json.loads(sys.argv[1]), storage={str(storage)!r}, engine='loop', progress=False)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, json.dumps(plan)], env={**os.environ})
    done = 0
    while done == 0 and process.poll() is None:
        time.sleep(0.05)
        if storage.exists():
            with StudyDatabase(storage) as database:
                names = [one.name for one in database.studies()]
                done = database.resume("rates").counts().done if names else 0
    process.send_signal(signal.SIGKILL)
    process.wait()
    with StudyDatabase(storage) as database:
        stored = database.resume("rates")
        before = {one.number: one.finished for one in stored.trials(state=TrialState.DONE)}
    # The lease of the killed process ends at once, instead of after 60 seconds.
    with closing(sqlite3.connect(storage)) as connection, connection:
        connection.execute("update etude_trials set expires = 0 where state = 'running'")
    found = study(plan, storage=storage, engine="loop", progress=False)
    assert found.done == 24
    with StudyDatabase(storage) as database:
        after = {one.number: one.finished for one in database.resume("rates").trials()}
    assert {n: after[n] for n in before} == before
    undisturbed = study({**plan, "name": "other"}, storage=storage, engine="loop", progress=False)
    assert losses(found) == losses(undisturbed)


def test_a_trial_that_raises_is_stored_with_its_error_and_the_others_go_on(storage, tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    plan = {
        "name": "own",
        "tasks": [f"{file}:broken", f"{file}:task"],
        "lrs": [0.1, 0.2],
        "steps": 5,
    }
    found = study(plan, storage=storage, engine="loop", progress=False)
    assert [str(row.state) for row in found.rows] == ["failed", "failed", "done", "done"]
    assert "no loss today" in found.rows[0].error
    assert "2 trials failed" in present(found).notice


def test_a_study_from_a_stranger_runs_no_code(storage, tmp_path):
    marker = tmp_path / "ran"
    file = tmp_path / "evil.py"
    file.write_text(f"open({str(marker)!r}, 'w')\n" + OWN)
    with StudyDatabase(storage) as database:
        ref = {"reference": f"{file}:task", "options": {}, "digest": "", "built": ""}
        database.create("gift", {}, [{"task": ref, "recipe": {"lr": 0.1, "steps": 3}}])
    with pytest.raises(StorageError, match="which is code that was not run here before"):
        resume("gift", storage=storage, progress=False)
    assert not marker.exists()


def test_damaged_parameters_end_in_one_line(storage):
    with StudyDatabase(storage) as database:
        stored = database.create("odd", {}, [{"recipe": {"lr": -1}, "task": {"reference": "a"}}])
        with pytest.raises(StorageError, match=r"trial 0 of the study 'odd' is damaged.*lr"):
            work(stored)


def test_another_plan_of_the_same_name_is_refused_with_the_difference(storage):
    study({**PLAN, "lrs": [0.1]}, storage=storage, engine="loop", progress=False)
    with pytest.raises(StorageError, match=r"lrs"):
        study({**PLAN, "lrs": [0.2]}, storage=storage, engine="loop", progress=False)


def test_a_name_that_is_not_there(storage):
    study({**PLAN, "lrs": [0.1], "seeds": 0}, storage=storage, engine="loop", progress=False)
    with pytest.raises(UnknownNameError, match="study 'rate': did you mean 'rates'"):
        resume("rate", storage=storage)


def test_the_report_states_what_the_trials_show(storage):
    found = study(PLAN, storage=storage, engine="loop", progress=False)
    (summary,) = found.summaries()
    means = {
        lr: sum(row.loss for row in found.rows if row.lr == lr) / 2 for lr in (0.001, 0.1, 1e4)
    }
    assert summary.optimum.lr == min(means, key=means.get) == 0.1
    report = present(found)
    assert "is at a rate of 0.1" in report.lede
    page = html(found)
    assert "<script" in page
    assert len(page) < 1.5e6
    assert not present(found).notice


def test_texts_of_users_are_escaped(storage):
    found = study(
        {**PLAN, "name": "<b>&bold", "lrs": [0.1], "seeds": 0},
        storage=storage,
        engine="loop",
        progress=False,
    )
    assert "<b>&bold" not in html(found)
