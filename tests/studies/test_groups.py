"""A group of trials is trained without a database: each becomes a Record, or an error."""

import pytest
import torch

import etude
from etude import tasks
from etude.storage.study import Claim
from etude.studies.groups import GroupTrainer, TrainedTrial, values_of
from etude.studies.plan import StudyPlan
from etude.studies.trials import planned_trials

OWN = """
import torch
from etude import Task

def task(broken=False):
    def loss(output, target):
        if broken:
            raise RuntimeError("no loss today")
        return torch.nn.functional.mse_loss(output, target)
    x = torch.linspace(-1, 1, 64)[:, None]
    return Task(torch.nn.Linear(1, 1), (x, 3 * x), loss=loss)
"""


def trials(**plan):
    return planned_trials(StudyPlan(**{"name": "a", "lrs": [0.01, 0.1], "steps": 5, **plan}))


@pytest.mark.parametrize("engine", ["loop", "pool"])
def test_a_group_gives_the_records_of_train(engine):
    planned = trials(tasks="cancer-mlp")
    with GroupTrainer(engine) as trainer:
        for _ in range(2):  # the engine is kept from one group to the next
            found = trainer.train(planned)
            assert [one.error for one in found] == ["", ""]
            for one, trial in zip(found, planned, strict=True):
                alone = etude.train(tasks.get("cancer-mlp"), trial.recipe)
                assert one.record.evaluations == alone.evaluations
                assert one.record.model is None


def test_each_trial_that_raises_tells_its_error_and_place(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    planned = trials(tasks=f"{file}:task", models=[{"broken": False}, {"broken": True}])
    with GroupTrainer("loop") as trainer:
        good, bad = trainer.train(planned[:2]), trainer.train(planned[2:])
    assert [one.record.status for one in good] == ["finished", "finished"]
    for one in bad:
        assert one.record is None
        assert "no loss today" in one.error
        assert "own.py:" in one.error + one.place
        with pytest.raises(ValueError, match=r"trial 7 raised: .*no loss today"):
            one.result(Claim(7, {}, "lease", "worker", 1))


def test_a_task_that_cannot_be_loaded_fails_its_whole_group(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    planned = trials(tasks=f"{file}:task")
    file.unlink()
    with GroupTrainer("loop") as trainer:
        found = trainer.train(planned)
    assert [one.record for one in found] == [None, None]
    assert "there is no Python file" in found[0].error


def test_a_model_that_a_file_builds_has_the_same_weights_in_every_process(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    planned = trials(tasks=f"{file}:task")
    torch.manual_seed(1)
    first = GroupTrainer("loop").train(planned)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    again = GroupTrainer("loop").train(planned)
    for one, other in zip(first, again, strict=True):
        assert one.record.evaluations == other.record.evaluations
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)  # the caller's own numbers are left alone


def test_the_further_values_are_finite():
    (one,) = GroupTrainer("loop").train(trials(tasks="cancer-mlp", lrs=[1e30]))
    assert one.record.status == "diverged"
    values = values_of(one.record)
    assert values["untrained_loss"] == one.record.evaluations[0].loss
    assert all(abs(value) < 1e300 for value in values.values())


def test_what_came_of_a_trial_that_raised_names_the_kind_of_its_error():
    assert TrainedTrial.failed(KeyError("x")).error == "KeyError: 'x'"
