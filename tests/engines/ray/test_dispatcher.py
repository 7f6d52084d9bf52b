"""The dispatcher against a cluster that loses whatever it likes: the bits of the loop."""

import itertools
import types
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etude import Recipe, tasks
from etude.engines import LoopEngine
from etude.engines.ray import dispatcher
from etude.engines.ray.dispatcher import RayDispatcher
from etude.engines.ray.sent import sent_task
from etude.engines.ray.worker import train_piece
from etude.engines.worker_settings import worker_settings
from etude.errors import EtudeError, TaskError
from etude.training.request import AdvanceRequest
from etude.training.run import Run
from tests.engines.common import quarters, same_bits

TASK = tasks.get("cancer-mlp")
BASE = Recipe(lr=0.01, steps=9, batch_size=16)


class RayError(Exception):
    """What a lost worker raises."""


class FakeRay:
    """As much of Ray as the dispatcher calls: a task runs when its result is asked for.

    Args:
        lost: For each task that is handed in, whether its worker is lost.
    """

    exceptions = types.SimpleNamespace(RayError=RayError)

    def __init__(self, lost=()):
        self.lost = itertools.chain(lost, itertools.repeat(False))
        self.handed, self.most, self.cancelled = 0, 0, []
        self.open = {}

    def put(self, value):
        return [value]

    def remote(self, told, sent, run, state, piece):
        self.handed += 1
        first = f"told {self.handed}"
        packed = []
        self.open[first] = (packed, lambda: train_piece(told, sent, run, state[0], piece))
        self.most = max(self.most, len(self.open))
        return first, packed

    def wait(self, refs, num_returns, timeout):
        return list(refs)[:num_returns], []

    def get(self, refs):
        told, _ = refs
        packed, do = self.open.pop(told)
        if next(self.lost):
            raise RayError("the node died")
        failure, state = do()
        packed.append(state)
        return failure, state

    def cancel(self, told, force):
        self.cancelled.append(told)


class FakeCluster:
    """A cluster of a fake Ray with some nodes."""

    def __init__(self, ray, alive=1):
        self.ray, self.alive = ray, alive

    def nodes(self):
        return [{}] * self.alive

    def gone(self, error, what_next):
        return EtudeError(f"the connection is lost: {error}; {what_next}")


@pytest.fixture(autouse=True)
def no_rest(monkeypatch):
    monkeypatch.setattr(dispatcher, "REST", 0.0)


def runs(count=3):
    return [Run(TASK, BASE.replace(lr=0.01 * 2**-i, seed=i)) for i in range(count)]


def dispatched(ray, ours, request, *, keep=0.0, width=2, alive=1):
    common = [[worker_settings(), sent_task(run.task)] for run in ours]
    RayDispatcher(FakeCluster(ray, alive), ray, common, ours, keep, lambda: width, request).work()


@cache
def by_the_loop(until=None):
    theirs = runs()
    LoopEngine().advance(theirs, AdvanceRequest(until, evaluation_steps=quarters))
    return theirs


@settings(max_examples=10)
@given(
    lost=st.lists(st.booleans(), max_size=12).filter(lambda row: "TTT" not in _text(row)),
    width=st.integers(1, 4),
    pause=st.integers(1, 9),
)
def test_whatever_is_lost_the_bits_are_those_of_the_loop(lost, width, pause):
    dispatcher.REST = 0.0
    ours, ray = runs(), FakeRay(lost)
    for until in (pause, None):
        dispatched(ray, ours, AdvanceRequest(until, quarters), width=width)
    for mine, theirs in zip(ours, by_the_loop(), strict=True):
        assert same_bits(mine, theirs)
        assert mine.evaluations == theirs.evaluations
    assert ray.most <= width
    assert not ray.open


def _text(row):
    return "".join("TF"[not one] for one in row)


def test_a_run_that_loses_every_worker_fails_and_the_others_keep_their_progress():
    ours, ray = runs(1), FakeRay([True] * 9)
    with pytest.raises(TaskError, match=r"worker was lost 3 times after update 0 .*node died"):
        dispatched(ray, ours, AdvanceRequest())
    assert ray.handed == 3


def test_without_any_node_the_cluster_is_gone():
    with pytest.raises(EtudeError, match=r"connection is lost.*go on when the cluster"):
        dispatched(FakeRay([True]), runs(1), AdvanceRequest(), alive=0)


def test_a_stop_keeps_what_was_in_training_and_another_engine_goes_on():
    ours, ray, asked = runs(), FakeRay(), itertools.count()
    dispatched(ray, ours, AdvanceRequest(None, quarters, stop=lambda: next(asked) >= 3), width=3)
    assert all(0 < run.step < run.length for run in ours)
    LoopEngine().advance(ours, AdvanceRequest(evaluation_steps=quarters))
    for mine, theirs in zip(ours, by_the_loop(), strict=True):
        assert same_bits(mine, theirs)


def test_an_error_of_the_caller_is_raised_and_what_came_back_is_kept():
    ours, ray = runs(), FakeRay()

    def fails(state, step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        dispatched(ray, ours, AdvanceRequest(None, quarters, on_step=fails), width=3)
    assert all(run.step > 0 for run in ours)
    assert not ray.open


def test_a_failing_run_is_named():
    ours, ray = runs(1), FakeRay()
    ours[0].state.recipe_digest  # noqa: B018 (kept: the recipe below is another)
    ours[0].state.recipe = ours[0].recipe.replace(lr=0.5)
    with pytest.raises(EtudeError, match="is of recipe") as said:
        dispatched(ray, ours, AdvanceRequest())
    assert any("in the run at lr 0.5" in note for note in said.value.__notes__)
