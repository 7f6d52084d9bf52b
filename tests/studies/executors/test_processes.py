"""Groups in processes: the numbers of this process, also when a worker is killed."""

import os
import signal
import time

import pytest

from etude.studies.executors import ProcessExecutor
from etude.studies.groups import GroupTrainer
from etude.studies.plan import StudyPlan
from etude.studies.trials import planned_trials

pytestmark = pytest.mark.slow


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_killed_worker_costs_its_group_alone():
    plan = StudyPlan(name="a", tasks="cancer-mlp", lrs=[0.01, 0.1], steps=[60, 61, 62])
    planned = planned_trials(plan)
    groups = {steps: [t for t in planned if t.recipe.steps == steps] for steps in plan.steps}
    found, lost = {}, []
    with ProcessExecutor(2, "loop") as executor:
        ended = executor.ended

        def seen(seconds):
            told = ended(seconds)
            lost.extend(job.key for job, outcome in told if not isinstance(outcome, list))
            return told

        executor.ended = seen
        for steps, trials in groups.items():
            executor.submit(steps, trials)
        started = executor.processes
        assert len(started) == 2
        os.kill(started[0], signal.SIGKILL)  # it has begun with the first group
        while len(found) < len(groups):
            found.update(executor.collect(1.0))
        started += executor.processes
    assert lost == [60]
    for steps, trials in groups.items():
        here = GroupTrainer("loop").train(trials)
        for one, other in zip(found[steps], here, strict=True):
            assert one.record.evaluations == other.record.evaluations
            assert one.record.series["loss"].tobytes() == other.record.series["loss"].tobytes()
    until = time.monotonic() + 10
    while any(map(alive, started)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(alive, started))
