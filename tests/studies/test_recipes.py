"""A recipe that is made from a known one is the recipe that its fields say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.errors import BadValueError, StorageError
from etude.recipe import Recipe
from etude.studies.recipes import recipe_of, ref_of
from etude.tasks.references.ref import TaskRef

FIELDS = st.fixed_dictionaries(
    {"lr": st.floats(1e-9, 1e9)},
    optional={
        "seed": st.integers(0, 2**63 - 1),
        "steps": st.integers(1, 99) | st.just("2 epochs"),
        "clip_norm": st.none() | st.just(1.0),
        "optimizer": st.sampled_from(["adam", {"name": "sgd", "momentum": 0.9}]),
        "schedule": st.sampled_from(["constant()", "warmup('5%') >> cosine()"]),
    },
)


@given(st.lists(FIELDS, min_size=1, max_size=4))
def test_it_equals_the_recipe_of_its_fields(listed):
    for fields in listed:
        found, right = recipe_of(fields), Recipe(**fields)
        assert found == right
        assert found.digest == right.digest
        assert found.plain() == right.plain()
        assert found.model_fields_set == right.model_fields_set


def test_a_known_recipe_is_not_changed():
    first = recipe_of({"lr": 0.1, "steps": 7})
    second = recipe_of({"lr": 0.2, "steps": 7, "seed": 3})
    assert (first.lr, first.seed, second.lr, second.seed) == (0.1, 0, 0.2, 3)


@pytest.mark.parametrize("lr", [0.0, -1.0, float("nan"), float("inf"), True, "0.1"])
def test_a_bad_rate_is_refused_as_ever(lr):
    recipe_of({"lr": 0.1, "steps": 7})
    with pytest.raises((BadValueError, TypeError), match="lr"):
        recipe_of({"lr": lr, "steps": 7})


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, True])
def test_a_bad_seed_is_refused_as_ever(seed):
    recipe_of({"lr": 0.1, "steps": 7})
    with pytest.raises((BadValueError, TypeError), match="seed"):
        recipe_of({"lr": 0.1, "steps": 7, "seed": seed})


def test_equal_references_are_one_object_and_damaged_ones_are_refused():
    plain = TaskRef.of("digits-mlp", {"width": 8}).plain()
    first, again = ref_of(plain, "here"), ref_of({**plain}, "here")
    assert first is again
    assert first == TaskRef.from_plain(plain, "here")
    assert ref_of({**plain, "options": {"width": 9}}, "here").key != first.key
    for bad in (None, [], {"reference": 3}, {**plain, "options": {1, 2}}):
        with pytest.raises(StorageError, match="here is damaged"):
            ref_of(bad, "here")
