"""The plans that come with Etude: what each trains, and that it can be changed."""

import pytest

from etude.errors import BadTypeError, BadValueError, UnknownNameError
from etude.studies.plan import StudyPlan, presets
from etude.studies.trials import planned_trials


def test_every_preset_is_a_plan_of_its_own_name():
    assert {"architectures", "batch-size", "instability", "width"} <= set(presets())
    for name in presets():
        plan = StudyPlan.preset(name)
        assert plan.name == name
        assert StudyPlan(**plan.plain()) == plan


def test_architectures_crosses_networks_optimizers_and_schedules():
    trials = planned_trials(StudyPlan.preset("architectures"))
    networks = {one.ref.reference for one in trials}
    assert networks == {
        "digits-mlp",
        "digits-deep-mlp",
        "digits-cnn",
        "digits-resnet",
        "digits-rnn",
        "digits-lstm",
        "digits-gru",
        "digits-transformer",
    }
    assert {one.recipe.optimizer.name for one in trials} == {"adam", "sgd"}
    assert {
        one.recipe.optimizer.value("momentum")
        for one in trials
        if one.recipe.optimizer.name == "sgd"
    } == {0.9}
    assert len({repr(one.recipe.schedule) for one in trials}) == 7
    kinds = {one.kind for one in trials}
    assert len(kinds) == 8 * 2 * 7
    rates = {(one.recipe.optimizer.name, one.recipe.lr) for one in trials}
    assert len(trials) == 8 * 7 * len(rates)
    sgd = [lr for name, lr in rates if name == "sgd"]
    assert max(sgd) >= 1.0


def test_batch_size_covers_a_square_of_rates_and_batches():
    trials = planned_trials(StudyPlan.preset("batch-size"))
    found = {(one.recipe.batch_size, one.recipe.lr) for one in trials}
    batches, rates = ({pair[i] for pair in found} for i in (0, 1))
    assert len(found) == len(batches) * len(rates)
    assert max(batches) / min(batches) >= 100


def test_instability_differs_in_each_of_its_four_causes():
    trials = planned_trials(StudyPlan.preset("instability"))
    assert {one.ref.options.get("qk_norm", False) for one in trials} == {False, True}
    assert len({one.ref.options["width"] for one in trials}) == 2
    assert len({repr(one.recipe.schedule) for one in trials}) == 2
    assert len({one.recipe.optimizer.value("weight_decay") for one in trials}) == 2


def test_width_compares_the_parametrisations_at_the_same_rates():
    trials = planned_trials(StudyPlan.preset("width"))
    plain, mup = ({
        (one.ref.options["width"], one.recipe.lr, one.recipe.seed)
        for one in trials
        if (one.recipe.lr_mult is None) == standard
    } for standard in (True, False))  # fmt: skip
    assert plain == mup
    assert len({width for width, _, _ in plain}) == 3


def test_a_change_replaces_the_key_in_every_block():
    plan = StudyPlan.preset("architectures", steps=3, seeds=[7], name="mine")
    trials = planned_trials(plan)
    assert {one.recipe.steps for one in trials} == {3}
    assert {one.recipe.seed for one in trials} == {7}
    assert plan.name == "mine"


def test_an_unknown_preset_lists_the_known():
    with pytest.raises(UnknownNameError, match="unknown preset 'architecture': did you mean 'arch"):
        StudyPlan.preset("architecture")


def test_a_wrong_change_is_refused():
    with pytest.raises(BadValueError, match="lrs is empty"):
        StudyPlan.preset("width", lrs=[])


BLOCKS = {"name": "two", "tasks": "cancer-mlp", "steps": 9}


def test_blocks_are_joined_and_equal_trials_are_trained_once():
    plan = StudyPlan(**BLOCKS, blocks=[{"lrs": [0.1, 0.2]}, {"lrs": [0.2, 0.3], "seeds": [0, 1]}])
    found = [(one.recipe.lr, one.recipe.seed) for one in planned_trials(plan)]
    assert found == [(0.1, 0), (0.2, 0), (0.2, 1), (0.3, 0), (0.3, 1)]


def test_fields_of_the_recipe_hold_for_all_runs_of_a_block():
    plan = StudyPlan(
        **BLOCKS, recipe={"l2": 0.1}, blocks=[{}, {"recipe": {"label_smoothing": 0.2}}]
    )
    assert [(one.recipe.l2, one.recipe.label_smoothing) for one in planned_trials(plan)] == [
        (0.1, None),
        (None, 0.2),
    ]


def test_rates_by_optimizer():
    plan = StudyPlan(
        **BLOCKS,
        optimizers=["adam", {"name": "sgd", "momentum": 0.9}, "sgd"],
        lrs={"adam": 0.001, "sgd": {"from": 0.01, "to": 1.0, "points": 3}},
    )
    found = [(one.recipe.optimizer.name, one.recipe.lr) for one in planned_trials(plan)]
    assert found == [("adam", 0.001)] + [("sgd", lr) for lr in (0.01, 0.1, 1.0)] * 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lrs": {"sgd": 0.1}}, "lrs gives rates by optimizer: give optimizers too"),
        ({"lrs": {"sgd": 0.1}, "optimizers": "adam"}, "lrs has no rates for 'adam'"),
        (
            {"lrs": {"sgd": 0.1, "adam": 0.1}, "optimizers": "adam"},
            "lrs has rates for 'sgd', which is not among the optimizers",
        ),
        ({"lrs": {}}, "lrs is empty"),
        ({"lrs": {"sdg": 0.1}}, "unknown optimizer in lrs 'sdg': did you mean 'sgd'"),
        ({"lrs": {"sgd": []}, "optimizers": "sgd"}, "lrs.sgd is empty"),
        ({"recipe": {"lr": 0.1}}, "recipe.lr: give lrs, which is an axis of its own"),
        ({"recipe": {"l3": 0.1}}, "unknown field in recipe 'l3'"),
        ({"recipe": {"l2": -1.0}}, "l2=-1.0 is out of bounds"),
        ({"recipe": 3}, "recipe=3: give a table"),
        ({"blocks": []}, r"blocks=\[\]: give a list of tables"),
        ({"blocks": [3]}, r"blocks\[0\] is 3: give a table"),
        ({"blocks": [{"lr": 3}]}, r"blocks\[0\]: unknown key of a plan 'lr'"),
        ({"blocks": [{}, {"optimizers": "sgd"}]}, r"blocks\[1\]: optimizers without lrs"),
    ],
)
def test_bad_tables_are_refused_with_the_fix(fields, message):
    with pytest.raises((BadValueError, BadTypeError), match=message):
        StudyPlan(**BLOCKS, **fields)


def test_a_plan_that_has_no_task_in_a_block_is_refused():
    with pytest.raises(BadValueError, match=r"blocks\[0\]: tasks is missing: give it"):
        StudyPlan(name="a", blocks=[{"lrs": 0.1}, {"tasks": "cancer-mlp"}])


def test_too_many_combinations_are_refused_before_they_are_made():
    many = {"from": 1, "to": 10_000, "by": 1}
    plan = StudyPlan(name="a", tasks="cancer-mlp", seeds=many, steps=many)
    with pytest.raises(BadValueError, match="the plan has 100,000,000 combinations"):
        planned_trials(plan)
