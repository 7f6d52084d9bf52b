"""Successive halving: rungs, who is stopped, and that it changes no number of who is not."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import etude
from etude import tasks
from etude.errors import BadTypeError, BadValueError
from etude.storage.study import StudyDatabase
from etude.studies.groups import GroupTrainer
from etude.studies.halving import rungs
from etude.studies.plan import StudyPlan
from etude.studies.study import resume, study
from etude.studies.trials import PlannedTrial, groups_of, planned_trials

PLAN = {
    "name": "halved",
    "tasks": "cancer-mlp",
    "lrs": [1e-4, 1e-3, 0.01, 0.1, 1.0, 1e3],
    "seeds": [0, 1],
    "steps": 12,
    "halving": 2,
}


@given(rates=st.integers(1, 500), length=st.integers(1, 2_000), factor=st.sampled_from([2, 3, 4]))
def test_rungs_end_with_the_whole_run_and_divide_the_rates(rates, length, factor):
    found = rungs(rates, length, factor)
    counts, updates = zip(*found, strict=True)
    assert counts[0] == rates
    assert updates[-1] == length
    assert list(updates) == sorted(set(updates))
    assert list(counts) == sorted(set(counts), reverse=True)
    assert counts[-1] >= 1
    if length >= rates:  # no rung falls together with another
        assert counts[-1] < factor
        assert sum(c * u for c, u in found) <= len(found) * (factor * length + rates)


def test_it_trains_less_than_the_whole_grid():
    found = rungs(81, 8_100, 3)
    assert found == [(81, 100), (27, 300), (9, 900), (3, 2_700), (1, 8_100)]


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (1, BadValueError, "halving=1 is out of bounds: give 2, 3 or 4"),
        (5, BadValueError, "halving=5 is out of bounds"),
        (True, BadTypeError, "halving=True is not a whole number"),
        ("3", BadTypeError, "halving='3' is not a whole number"),
    ],
)
def test_a_factor_out_of_bounds_is_refused(value, kind, message):
    with pytest.raises((kind, BadValueError), match=message):
        StudyPlan(name="a", tasks="cancer-mlp", halving=value)


def test_a_competition_is_one_group_of_any_size():
    rates = [i / 100 for i in range(1, 40)]
    plan = StudyPlan(**{**PLAN, "optimizers": ["adam", "sgd"], "lrs": rates})
    trials = planned_trials(plan)
    groups = groups_of(trials, 32)
    assert [len(group) for group in groups] == [78, 78]
    for group in groups:
        assert len({trials[n].kind for n in group}) == 1
    assert [PlannedTrial.from_plain(one.plain(), "here") for one in trials] == trials


@pytest.mark.parametrize("engine", ["loop", "pool"])
def test_who_is_trained_to_the_end_has_the_numbers_of_train(engine, tmp_path):
    found = study(PLAN, storage=tmp_path / "s.db", engine=engine, progress=False)
    ends = {row.lr: row.stopped_at for row in found.rows if not row.diverged}
    assert sorted(end or 12 for end in ends.values())[-3:] == [6, 6, 12]
    assert all(row.stopped_at == ends[row.lr] for row in found.rows if not row.diverged)
    for row, planned in zip(found.rows, planned_trials(StudyPlan(**PLAN)), strict=True):
        if row.stopped_at is None:
            assert row.loss == etude.train(tasks.get("cancer-mlp"), planned.recipe).valid_loss
    (summary,) = found.summaries()
    assert summary.stopped == sum(row.stopped_at is not None for row in found.rows)
    assert math.isnan(summary.sensitivity)
    assert len(summary.lrs) == 1
    assert "stopped by successive halving" in str(found)


def test_a_rate_is_stopped_by_the_loss_at_the_rung():
    trials = planned_trials(StudyPlan(**PLAN))
    with GroupTrainer("loop") as trainer:
        records = [one.record for one in trainer.train(trials)]
    at_rung = {
        lr: sum(
            next((e.loss for e in r.evaluations if e.step == 3), math.inf)
            for r in records
            if r.recipe.lr == lr
        )
        for lr in PLAN["lrs"]
    }
    alive = {r.recipe.lr for r in records if r.cost.steps > 3}
    assert alive == set(sorted(at_rung, key=at_rung.get)[:3])


def test_an_interrupted_competition_is_held_again_with_the_same_end(tmp_path, monkeypatch):
    plan = {**PLAN, "optimizers": ["adam", "sgd"]}
    whole = study(plan, storage=tmp_path / "whole.db", engine="loop", progress=False)
    calls = []
    real = GroupTrainer.train

    def stop(self, trials):
        calls.append(len(trials))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, trials)

    monkeypatch.setattr(GroupTrainer, "train", stop)
    with pytest.raises(KeyboardInterrupt, match=r"^interrupted; 12 of "):
        study(plan, storage=tmp_path / "s.db", engine="loop", progress=False)
    with StudyDatabase(tmp_path / "s.db") as database:
        assert database.resume("halved").counts().done == 12
    assert resume("halved", storage=tmp_path / "s.db", engine="loop", progress=False) == whole
    assert calls == [12, 12, 12]
