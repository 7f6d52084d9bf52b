"""Runs of Etude under watch: the same bits, and one diagnosis of a run in parts."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

import etude
from etude import Recipe, Task, WatchObserver
from etude.diagnosis.finding import Cause, Symptom
from etude.diagnosis.health.read import health_of
from etude.diagnosis.history import Quantity, RunQuantity
from etude.diagnosis.watching.curvature import is_due
from etude.engines import train_many
from etude.errors import BadTypeError, BadValueError
from etude.training.request import AdvanceRequest
from etude.training.run import Run
from tests.diagnosis.programs import classes

RECIPE = Recipe(lr=0.01, steps=40, batch_size=16, evaluations=4)


def noisy() -> nn.Module:
    """A network that draws random numbers, with buffers."""
    return nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3)
    )


TASK = Task(noisy, classes(128), loss=cross_entropy, metric="accuracy", name="noisy")


def same(one: Any, other: Any) -> bool:
    """Whether two runs, or records, have the same bits."""
    states = one.model.state_dict().values(), other.model.state_dict().values()
    return (
        all(torch.equal(a, b) for a, b in zip(*states, strict=True))
        and {k: list(v) for k, v in one.series.items()}
        == {k: list(v) for k, v in other.series.items()}
        and list(one.evaluations) == list(other.evaluations)
    )


def hooks_of(model: nn.Module) -> list[object]:
    """The hooks of a model's parts."""
    return [h for m in model.modules() for h in (*m._forward_hooks, *m._forward_pre_hooks)]


# ---- the same bits -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "sgd", "clip_norm": 0.1, "accumulate": 2},
        {"precision": "bfloat16"},
        {"optimizer": "lbfgs", "lr": 0.1, "steps": 6},
    ],
    ids=str,
)
def test_a_watched_run_has_the_bits_of_another(changes):
    recipe = RECIPE.replace(**changes)
    plain = etude.train(TASK, recipe)
    record = etude.train(TASK, recipe, watch=WatchObserver(every=1))
    assert same(plain, record)
    assert not hooks_of(record.model)
    history = health_of(record).history
    assert history.updates == recipe.steps
    assert history.samples == recipe.steps
    over = history.of_run(RunQuantity.RATE_OVER_CRITICAL)
    stepped = [t for t, lr in enumerate(plain.series["lr"]) if is_due(t) and lr > 0]
    assert history.steps[~np.isnan(over)].tolist() == stepped
    assert torch.autograd.backward.__module__ == "torch.autograd"


def test_a_watched_run_that_is_resumed_has_the_same_bits_and_one_diagnosis():
    plain = etude.train(TASK, RECIPE, watch=WatchObserver(every=1))
    first, second = (Run(TASK, RECIPE, observers=[WatchObserver(every=1)]) for _ in range(2))
    steps = first.state.evenly_spaced(RECIPE.evaluations)
    first.advance(AdvanceRequest(17, steps))
    second.load_state_dict(first.state_dict())
    second.advance(AdvanceRequest(evaluation_steps=steps))
    assert same(plain, second.record())
    whole, parts = health_of(plain), health_of(second.record())
    assert parts.unseen == whole.unseen == ()
    assert parts.history.steps.tolist() == list(range(40))
    for quantity in (Quantity.GRADIENT_NORM, Quantity.UPDATE_RATIO, Quantity.ACTIVATION_VARIANCE):
        both = (one.history.of_layers(quantity) for one in (parts, whole))
        known = np.logical_and(*map(np.isfinite, both))
        assert known[:17].any()
        assert known[17:].any()
        np.testing.assert_array_equal(
            parts.history.of_layers(quantity)[known], whole.history.of_layers(quantity)[known]
        )


def test_runs_in_worker_processes_are_watched():
    recipes = [RECIPE, RECIPE.replace(lr=0.02)]
    plain = train_many(TASK, recipes, "loop", evaluations=4)
    found = train_many(TASK, recipes, "pool", evaluations=4, observers=[WatchObserver(every=2)])
    for one, other in zip(plain, found, strict=True):
        assert same(one, other)
        assert health_of(other).history.steps.tolist() == list(range(0, 40, 2))
    assert found[0].notes != found[1].notes


def test_a_stack_of_runs_says_that_it_was_not_watched():
    task = Task(lambda: nn.Linear(8, 3), classes(128), loss=cross_entropy, name="line")
    records = train_many(task, [RECIPE] * 2, "vmap", observers=[WatchObserver()])
    found = health_of(records[0])
    assert not found.healthy
    assert found.unseen == ("Updates 0 to 39 were not watched.", "No update was read.")
    assert found.seen == ()


# ---- what is said --------------------------------------------------------------------------------


def test_a_run_that_was_resumed_under_watch_says_from_where_it_saw(tmp_path):
    etude.train(TASK, RECIPE, folder=tmp_path, watch=False)
    record = etude.train(TASK, folder=tmp_path, resume=True, steps=60)
    found = health_of(record)
    assert found.unseen[0] == "Updates 0 to 39 were not watched."
    assert found.history.steps.min() == 40
    assert found.history.updates == 60
    again = etude.Record.load(tmp_path)
    assert health_of(again).unseen == found.unseen


def test_a_run_that_diverged_is_not_healthy():
    record = etude.train(TASK, RECIPE.replace(lr=1e30, optimizer="sgd"), watch=True)
    found = health_of(record)
    assert Symptom.DIVERGING in [one.what for one in found.findings]
    last = found.findings[-1]
    assert last.step == record.cost.steps
    assert last.text.lower() == f"{record.reason}.".lower()


def test_a_run_that_learns_nothing_is_not_healthy():
    x = torch.randn(128, 4, generator=torch.Generator().manual_seed(0))
    task = Task(lambda: nn.Linear(4, 1), (x, torch.randn(128, 1)), loss=mse_loss, name="noise")
    record = etude.train(task, RECIPE.replace(lr=1e-6), watch=True)
    assert [one.what for one in health_of(record).findings] == [Symptom.STALLED]


def test_updates_are_counted_where_parts_take_turns():
    record = etude.train(
        turns(), Recipe(lr=1e-3, steps=6, batch_size=16), watch=WatchObserver(every=1)
    )
    history = health_of(record).history
    assert history.updates == 6
    assert sorted(set(history.steps.tolist())) == list(range(6))


def turns() -> Task:
    """Two parts that are updated in turn."""

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(8, 1), nn.Linear(8, 1)

    def step(model: Any, batch: Any) -> Any:
        yield "one", model.one(batch[0]).square().mean()
        yield "two", model.two(batch[0]).square().mean()

    return Task(Pair, classes(64), step=step, name="turns")


def test_an_observer_is_used_for_one_run_after_the_other():
    watching = WatchObserver(every=1)
    first = etude.train(TASK, RECIPE, observers=[watching])
    second = etude.train(TASK, RECIPE.replace(steps=20), observers=[watching])
    assert health_of(first).history.updates == 40
    assert health_of(second).history.updates == 20
    assert watching.report().history.updates == 20


def test_findings_are_told_once_also_over_a_resumed_run():
    class Evaluating(nn.Sequential):
        def train(self, mode: bool = True) -> Any:
            return super().train(False)

    task = Task(
        lambda: Evaluating(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 3)), classes(64),
        loss=cross_entropy, name="evaluating",
    )  # fmt: skip
    told: list[Any] = []
    first, second = (
        Run(task, RECIPE, observers=[WatchObserver(every=1, on_finding=told.append)])
        for _ in range(2)
    )
    first.advance(20)
    assert [one.what for one in told] == [Cause.EVAL_MODE_IN_TRAINING]
    second.load_state_dict(first.state_dict())
    second.advance(None)
    assert len(told) == 1
    assert second.record().notes["watch"]["diagnosis"]["findings"][0]["layer"] == "1"


def test_a_watch_that_fails_lets_the_run_go_on(monkeypatch):
    from etude.diagnosis.watching import loop_reader

    def fail(*args: Any) -> None:
        raise RuntimeError("within")

    monkeypatch.setattr(loop_reader, "left_in_evaluation", fail)
    with pytest.warns(UserWarning, match="the watch stopped at update 1 .*the training goes on"):
        record = etude.train(TASK, RECIPE, watch=True)
    monkeypatch.undo()
    assert same(record, etude.train(TASK, RECIPE))
    found = health_of(record)
    assert not found.healthy
    assert "RuntimeError: within" in str(found)


def test_an_error_in_a_run_leaves_no_hook():
    class Failing(nn.Linear):
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += self.training
            if self.calls == 20:
                raise OSError("in the forward pass")
            return super().forward(x)

    run = Run(
        Task(lambda: Failing(8, 3), classes(64), loss=cross_entropy), RECIPE,
        observers=[WatchObserver()],
    )  # fmt: skip
    with pytest.raises(Exception, match="in the forward pass"):
        run.advance(None)
    assert not hooks_of(run.model)
    assert torch.autograd.backward.__module__ == "torch.autograd"
    assert not torch.overrides.has_torch_function([torch.zeros(1)])


# ---- where it is on, and what is refused ---------------------------------------------------------


def test_a_folder_is_watched_and_memory_is_not(tmp_path):
    assert "watch" in etude.train(TASK, RECIPE, folder=tmp_path / "a").notes
    assert "watch" not in etude.train(TASK, RECIPE).notes
    assert "watch" not in etude.train(TASK, RECIPE, folder=tmp_path / "b", watch=False).notes
    files = {path.name for path in (tmp_path / "b").iterdir()}
    assert files < {path.name for path in (tmp_path / "a").iterdir()}


def test_tuning_keeps_what_was_found_in_each_trial(tmp_path):
    recipe = RECIPE.replace(steps=32)
    best = etude.tune(TASK, recipe, 1.5, folder=tmp_path, progress=False, engine="loop")
    plain = etude.tune(TASK, recipe, 1.5, progress=False, engine="loop")
    assert best.lr == plain.lr
    pairs = zip(best.model.parameters(), plain.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert health_of(best.record).history.updates == 32
    assert health_of(etude.TuneResult.load(tmp_path).record) is not None
    for trial in best.trials:
        assert health_of(etude.Record.load(tmp_path / trial.folder)) is not None


@pytest.mark.parametrize("watch", [3, "yes", WatchObserver])
def test_another_watch_is_refused(watch):
    with pytest.raises(BadTypeError, match=r"watch is .*: give True, False or a WatchObserver"):
        etude.train(TASK, RECIPE, watch=watch)


def test_a_period_is_checked():
    with pytest.raises(BadValueError, match="every is 0: give a positive integer"):
        WatchObserver(every=0)


def test_copies_share_nothing_of_a_run():
    watching = WatchObserver(every=3)
    etude.train(TASK, RECIPE, observers=[watching])
    for twin in (copy.deepcopy(watching), pickle.loads(pickle.dumps(watching))):
        assert twin.period == 3
        assert twin.report().history is None
    json.dumps(watching.report().to_dict(), allow_nan=False)
