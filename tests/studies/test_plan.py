"""A plan: values, lists and ranges of its axes, and what it refuses before any training."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.errors import BadTypeError, BadValueError, UnknownNameError
from etude.studies.plan import StudyPlan
from etude.studies.ranges import values_of
from etude.studies.trials import PlannedTrial, groups_of, planned_trials

RATES = st.floats(1e-6, 1e3)


@given(low=RATES, factor=st.floats(1.01, 1e4), points=st.integers(2, 60))
def test_points_have_equal_ratios_and_both_ends(low, factor, points):
    found = values_of("lrs", {"from": low, "to": low * factor, "points": points})
    assert (found[0], found[-1]) == (low, low * factor)
    assert list(found) == sorted(found)
    if len(found) == points > 2 and factor > 1.5:
        ratios = [b / a for a, b in pairwise(found)]
        assert max(ratios) / min(ratios) == pytest.approx(1, abs=1e-4)


@given(low=st.integers(-50, 50), count=st.integers(1, 40), by=st.integers(1, 9))
def test_by_is_pythons_range_with_its_end(low, count, by):
    high = low + (count - 1) * by
    found = values_of("seeds", {"from": low, "to": high, "by": by})
    assert found == tuple(range(low, high + 1, by))


def test_whole_ends_give_whole_points():
    found = values_of("batch_sizes", {"from": 8, "to": 512, "points": 7})
    assert found == (8, 16, 32, 64, 128, 256, 512)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "lrs is empty: give at least one value"),
        ([0.1, 0.1], "lrs has 0.1 twice"),
        ({"from": 1.0, "to": 0.1, "points": 3}, "give the smaller end first"),
        ({"from": 0.0, "to": 0.1, "points": 3}, r"lrs.from=0.0 is out of bounds"),
        ({"from": 0.1, "to": 1.0}, "is no range: give from, to, and either points or by"),
        ({"from": 0.1, "to": 1.0, "points": 3, "step": 1}, "is no range"),
        ({"from": 0.1, "to": 1.0, "points": 1}, "lrs.points=1 is out of bounds: give 2"),
        ({"from": 0.1, "to": math.inf, "points": 3}, "lrs.to=inf is not finite"),
        ({"from": 0.1, "to": 1.0, "by": 0}, "lrs.by=0 is out of bounds"),
        ({"from": 0, "to": 10**9, "by": 1}, "give at most 10,000"),
    ],
)
def test_bad_axes_are_refused_with_the_fix(given, message):
    with pytest.raises(BadValueError, match=message):
        StudyPlan(name="a", tasks="cancer-mlp", lrs=given)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task": "cancer-mlp"}, "unknown key of a plan 'task': did you mean 'tasks'"),
        ({}, "tasks is missing: give it"),
        ({"tasks": []}, "tasks is empty"),
        ({"tasks": "cancer-mlp", "optimizers": ["adam"]}, "optimizers without lrs"),
        ({"tasks": "cancer-mlp", "lrs": 0.1, "optimizers": ["adm"]}, "'adm': did you mean 'adam'"),
    ],
)
def test_bad_plans_are_refused_with_the_fix(fields, message):
    with pytest.raises(BadValueError, match=message):
        StudyPlan(name="a", **fields)


@pytest.mark.parametrize("lr", [0, -1.0, math.nan, math.inf])
def test_a_rate_that_no_run_can_have_is_refused_before_any_training(lr):
    with pytest.raises(BadValueError, match="lr"):
        planned_trials(StudyPlan(name="a", tasks="cancer-mlp", lrs=[lr]))


def test_a_model_option_that_a_task_does_not_have_is_named():
    with pytest.raises(UnknownNameError, match="the task 'cancer-mlp' has no option 'stages'"):
        planned_trials(StudyPlan(name="a", tasks="cancer-mlp", models=[{"stages": 2}]))


def test_models_are_tables():
    with pytest.raises(BadTypeError, match="models"):
        StudyPlan(name="a", tasks="cancer-mlp", models=["deep"])


def test_every_combination_is_one_trial():
    plan = StudyPlan(
        name="all",
        tasks=["cancer-mlp", "diabetes-mlp"],
        models=[{}, {"depth": 3}],
        optimizers=["adam", {"name": "sgd", "momentum": 0.9}],
        schedules=["constant()", "cosine()"],
        lrs=[0.1, 0.01],
        batch_sizes=[16, 32],
        clips=["none", 1.0],
        seeds=[0, 1],
        steps=[10, 20],
    )
    found = planned_trials(plan)
    assert len(found) == len({str(one.plain()) for one in found}) == 2**9
    assert {one.recipe.clip_norm for one in found} == {None, 1.0}
    assert {dict(one.ref.options).get("depth") for one in found} == {None, 3}
    again = [PlannedTrial.from_plain(one.plain(), "here") for one in found]
    assert again == found


def test_an_axis_that_is_left_out_keeps_the_tasks_own_recipe():
    (one,) = planned_trials(StudyPlan(name="a", tasks="cancer-mlp"))
    assert (one.recipe.lr, one.recipe.steps, one.recipe.batch_size) == (0.01, 500, 32)
    assert one.recipe.optimizer.name == "sgd"


def test_a_plan_comes_back_from_its_plain_form_and_from_toml(tmp_path):
    plan = StudyPlan(
        name="a", tasks="cancer-mlp", lrs={"from": 0.01, "to": 1.0, "points": 3}, seeds=[1]
    )
    assert StudyPlan(**plan.plain()) == plan
    file = tmp_path / "a.toml"
    file.write_text(
        'tasks = ["cancer-mlp"]\nlrs = {from = 0.01, to = 1.0, points = 3}\nseeds = 1\n'
    )
    assert StudyPlan.load(file) == plan


def test_a_damaged_file_is_named(tmp_path):
    file = tmp_path / "bad.toml"
    file.write_text("tasks = [")
    with pytest.raises(BadValueError, match=r"bad\.toml: the plan is not valid TOML"):
        StudyPlan.load(file)


@given(st.data())
def test_groups_hold_every_trial_once_and_only_like_ones(data):
    count = data.draw(st.integers(1, 4))
    plan = StudyPlan(name="a", tasks="cancer-mlp", lrs=[0.1, 0.2], steps=list(range(1, count + 1)))
    trials = planned_trials(plan)
    size = data.draw(st.integers(1, 5))
    groups = groups_of(trials, size)
    assert sorted(n for group in groups for n in group) == list(range(len(trials)))
    for group in groups:
        assert 1 <= len(group) <= size
        assert len({trials[n].recipe.steps for n in group}) == 1
