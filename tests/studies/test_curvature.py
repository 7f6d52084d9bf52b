"""The curvature before training: one trial stands for all that differ in rate and schedule."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude import tasks
from etude.measure.sharpness import sharpness
from etude.recipe import Recipe
from etude.studies.curvature import LARGEST, curvature, stand_ins
from etude.studies.plan import StudyPlan
from etude.studies.study import study
from etude.studies.summary import limits_of
from etude.studies.trials import planned_trials
from etude.training.run import Run

PLANNED = planned_trials(
    StudyPlan(
        name="a", tasks="cancer-mlp", optimizers=["sgd", "adam"], lrs=[0.1, 1.0], steps=[5, 6]
    )
)


@given(st.permutations(range(8)))
def test_each_family_has_one_stand_in_and_it_is_the_first(order):
    trials = [PLANNED[i] for i in order]
    found = stand_ins(trials)
    names = [one.recipe.optimizer.name for one in trials]
    assert found == {names.index("sgd"), names.index("adam")}


def test_the_limit_is_that_of_the_optimizer_whatever_the_rate():
    task = tasks.get("cancer-mlp")
    plain = curvature(task, Recipe(optimizer="sgd", lr=0.1, steps=10))
    heavy = curvature(task, Recipe(optimizer={"name": "sgd", "momentum": 0.9}, lr=5.0, steps=99))
    assert plain["sharpness"] == heavy["sharpness"]
    assert plain["limit"] == pytest.approx(2 / plain["sharpness"])
    assert heavy["limit"] == pytest.approx(3.8 / plain["sharpness"])
    exact = sharpness(Run(task, Recipe(optimizer="sgd", lr=0.1, steps=10)), samples=256)
    assert plain["sharpness"] == pytest.approx(exact.value, rel=0.1)


def test_where_it_is_not_known_nothing_is_said(monkeypatch):
    task = tasks.get("cancer-mlp")
    assert curvature(task, Recipe(optimizer="adam", lr=0.1, steps=10)) == {}
    monkeypatch.setattr("etude.studies.curvature.LARGEST", 10)
    assert LARGEST > 10
    assert curvature(task, Recipe(optimizer="sgd", lr=0.1, steps=10)) == {}


def test_a_study_keeps_it_once_and_all_kinds_of_the_family_read_it(tmp_path, monkeypatch):
    monkeypatch.setenv("ETUDE_STATE_DIR", str(tmp_path / "state"))
    plan = {
        "name": "a",
        "tasks": "cancer-mlp",
        "optimizers": ["sgd", "adam"],
        "schedules": ["constant()", "cosine()"],
        "lrs": [0.01, 0.1],
        "steps": 4,
    }
    found = study(plan, storage=tmp_path / "s.db", engine="loop", progress=False)
    (row,) = limits_of(found.rows).values()
    assert (row.number, row.kind.optimizer) == (0, "sgd")
    for one in found.summaries():
        known = one.kind.optimizer == "sgd"
        assert one.limit == (row.limit if known else None)
        assert one.measured == (0 if known else None)
    record = found.record(3)
    assert record.valid_loss == found.rows[3].loss
