"""What is sent to a Ray worker: the same task, the same run, the same bits; never a live object."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from etude import Observer, Recipe, Task, WatchObserver, tasks
from etude.engines import LoopEngine
from etude.engines.process.state_transfer import pack, take_back, unpack
from etude.engines.ray.sent import built_task, sent_run, sent_task
from etude.engines.ray.worker import error_of, failure_of, train_piece
from etude.engines.worker_settings import worker_settings
from etude.errors import BadTypeError, BadValueError, ObserverError, TaskError
from etude.measure.gradient_norm import GradientNorm
from etude.optimizers import table
from etude.tasks.references.fingerprint import fingerprint
from etude.training.request import AdvanceRequest
from etude.training.run import Run
from etude.trials.folds import folds_of
from etude.trials.score import goal_for, judged_by
from etude.trials.valid_samples import compared_on
from etude.trials.weight_mean import WeightMean
from tests.engines.common import data, mlp, quarters, same_bits
from tests.optimizers.own_optimizers import Signs, two_rates

NAMES = ("cancer-mlp", "diabetes-mlp")
RECIPE = Recipe(lr=0.01, steps=12, batch_size=16)

OWN = """
import torch
from etude import Task

def task(seeded=True):
    g = torch.Generator().manual_seed(0) if seeded else None
    x = torch.randn(64, 2, generator=g)
    if not seeded:
        x = x + torch.rand(64, 2, generator=torch.Generator().manual_seed(torch.seed()))
    return Task(lambda: torch.nn.Linear(2, 1), (x, x.sum(1, keepdim=True)),
                loss=torch.nn.functional.mse_loss)
"""


def shapes_of(name):
    """A bundled task whole, judged by its metric, on fewer samples, and its folds."""
    task = tasks.get(name)
    yield task
    yield judged_by(task, goal_for(task, "metric"))
    fewer = compared_on(task, RECIPE, 32)
    yield fewer
    for fold in folds_of(task, 3):
        yield fold
        yield judged_by(compared_on(fold, RECIPE, 20), goal_for(task, "metric"))


@pytest.mark.parametrize("name", NAMES)
def test_a_worker_builds_the_task_that_was_sent(name):
    for task in shapes_of(name):
        sent = sent_task(task)
        json.dumps(sent["plain"])
        found = built_task(sent)
        assert fingerprint(found) == fingerprint(task)
        for mine, theirs in ((found.train, task.train), (found.valid, task.valid)):
            for one, other in zip(mine.tensors, theirs.tensors, strict=True):
                assert torch.equal(one, other)
        assert getattr(found.metric, "noise", False) == getattr(task.metric, "noise", False)
        assert sent_task(found)["key"] == sent["key"]


def test_a_task_put_together_in_a_program_is_refused_with_the_way_out():
    task = Task(mlp, data(), loss=cross_entropy, name="mine")
    with pytest.raises(
        BadValueError, match=r"'mine' was put together in this program.*tasks\.load"
    ):
        sent_task(task)
    changed = replace(tasks.get("cancer-mlp"), loss=cross_entropy)
    with pytest.raises(BadValueError, match="no other machine can build it"):
        sent_task(changed)
    with pytest.raises(BadValueError, match="no other machine can build it"):
        sent_task(folds_of(changed, 2)[0])


def test_a_file_that_draws_without_a_seed_is_found_out(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    built_task(sent_task(tasks.load(f"{file}:task")))
    sent = sent_task(tasks.load(f"{file}:task", seeded=False))
    with pytest.raises(TaskError, match=r"builds another task .*its train, valid differ"):
        built_task(sent)


@settings(max_examples=6)
@given(cuts=st.lists(st.integers(1, 12), max_size=3), optimizer=st.sampled_from(["adamw", "sgd"]))
def test_a_run_that_is_sent_to_and_fro_keeps_the_bits_of_the_loop(cuts, optimizer):
    task = tasks.get("cancer-mlp")
    recipe = RECIPE.replace(optimizer=optimizer)
    ours, theirs = (
        Run(task, recipe, observers=[WeightMean(recipe.steps), GradientNorm()]) for _ in range(2)
    )
    sent, told = sent_task(task), worker_settings()
    steps = tuple(sorted(quarters(ours.state)))
    for until in [*sorted(cuts), None]:
        while ours.step < (until or ours.length):
            seconds = 0.0 if ours.step % 2 else 60.0
            failure, state = train_piece(
                told,
                sent,
                sent_run(ours),
                pack(ours.state_dict()),
                (until or ours.length, steps, seconds),
            )
            assert failure is None
            take_back(ours, unpack(state))
    LoopEngine().advance([theirs], AdvanceRequest(evaluation_steps=quarters))
    assert same_bits(ours, theirs)
    assert ours.evaluations == theirs.evaluations
    assert ours.series["gradient_norm"] == theirs.series["gradient_norm"]
    kinds = [type(one) for one in ours.observers]
    assert kinds == [WeightMean, GradientNorm]
    assert [one.evaluations for one in ours.observers if isinstance(one, WeightMean)] == [
        one.evaluations for one in theirs.observers if isinstance(one, WeightMean)
    ]


@pytest.mark.parametrize("mine", [Signs, two_rates])
def test_an_optimizer_of_ones_own_is_imported_and_keeps_the_bits_of_the_loop(mine):
    task, recipe = tasks.get("cancer-mlp"), RECIPE.replace(optimizer=mine)
    ours, theirs = Run(task, recipe), Run(task, recipe)
    sent, told = sent_task(task), worker_settings()
    for until in (5, ours.length):
        what, state = sent_run(ours), pack(ours.state_dict())
        json.dumps({**what, "observers": []})  # plain values alone
        known = table.OWN.pop(recipe.optimizer.name)  # a worker does not know it yet
        try:
            failure, state = train_piece(
                told, sent, what, pack(ours.state_dict()), (until, (), 60.0)
            )
        finally:
            table.OWN[recipe.optimizer.name] = known
        assert failure is None
        take_back(ours, unpack(state))
    theirs.advance()
    assert ours.series["loss"] == theirs.series["loss"]
    for one, other in zip(ours.parameters, theirs.parameters, strict=True):
        assert torch.equal(one, other)


def test_an_optimizer_that_cannot_be_imported_is_refused_with_the_way_out():
    recipe = RECIPE.replace(optimizer=lambda groups, lr: torch.optim.SGD(groups, lr=lr))
    with pytest.raises(
        BadTypeError,
        match=r"<lambda>.* cannot be built on another machine: put it in a module .* or train "
        r"with engine='pool', in processes of this machine$",
    ):
        sent_run(Run(tasks.get("cancer-mlp"), recipe))


def test_a_failure_comes_back_as_text_and_is_raised_as_its_own_kind():
    task = tasks.get("cancer-mlp")
    run = Run(task, RECIPE)
    sent = {**sent_run(run), "recipe": {**RECIPE.plain(), "lr": 0.02}}
    failure, state = train_piece(
        worker_settings(), sent_task(task), sent, pack(run.state_dict()), (run.length, (), 9.0)
    )
    assert state is None  # no run was built: what the driver holds stands
    error = error_of(failure)
    assert type(error).__name__ == "StorageError"
    assert "is of recipe" in str(error)
    assert "Traceback" in error.__notes__[0]
    for one in (ObserverError("mine failed"), TaskError("no loss today")):
        assert type(error_of(failure_of(one))) is type(one)
        assert str(error_of(failure_of(one))) == str(one)


class Local(Observer):
    """An observer with an argument that it does not tell."""

    def __init__(self, hook):
        super().__init__()
        self.hook = hook


class LoopOnly(Observer):
    """One that other processes cannot hold."""

    engines = ("loop",)


def test_observers_that_cannot_be_built_there_are_refused():
    task = tasks.get("cancer-mlp")
    for observer in (Local(print), WatchObserver(on_finding=print)):
        with pytest.raises(
            BadTypeError, match=r"cannot be built on another machine.*engine='pool'"
        ):
            sent_run(Run(task, RECIPE, observers=[observer]))
    with pytest.raises(BadTypeError, match="does not list 'pool'"):
        sent_run(Run(task, RECIPE, observers=[LoopOnly()]))
    watched = sent_run(Run(task, RECIPE, observers=[WatchObserver(every=4, tied=(0.1, 0.2))]))
    ((place, name, arguments),) = watched["observers"]
    assert (name, arguments["every"], arguments["tied"]) == ("WatchObserver", 4, (0.1, 0.2))
    assert place == "etude.diagnosis.health.observer"
