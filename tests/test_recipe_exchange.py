"""The text of a recipe's `compress`: read safely, written back, and refused with the fix."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude import Recipe
from etude.errors import BadTypeError, BadValueError, EtudeError, UnknownNameError
from etude.recipe_exchange import COMPRESSIONS, DiLoCo, LocalSGD, PowerSGD, TopK, compression

whole = st.integers(1, 10**6)
POLICIES = st.one_of(
    st.sampled_from([kind() for kind in COMPRESSIONS.values()]),
    st.builds(PowerSGD, rank=whole, start=st.one_of(st.none(), st.integers(2, 10**6))),
    st.builds(TopK, ratio=st.floats(0, 1, exclude_min=True)),
    st.builds(LocalSGD, period=whole, start=st.one_of(st.none(), st.integers(0, 10**6))),
    st.builds(
        DiLoCo,
        inner=whole,
        lr=st.floats(0, 1e3, exclude_min=True),
        momentum=st.one_of(st.none(), st.floats(0, 1, exclude_max=True)),
    ),
)


@given(POLICIES)
def test_the_text_is_the_value(policy):
    assert compression(repr(policy)) == policy
    recipe = Recipe(compress=policy)
    assert recipe.compress == policy
    assert Recipe.from_toml(recipe.to_toml()) == Recipe.from_json(recipe.to_json()) == recipe
    assert recipe.digest == Recipe(compress=repr(policy)).digest != Recipe().digest


@pytest.mark.parametrize("value", [None, "none", "none()", " None ", "NONE"])
def test_none_is_the_recipe_as_it_was(value):
    assert Recipe(compress=value) == Recipe()
    assert Recipe(compress=value).digest == Recipe().digest
    assert "compress" not in Recipe(compress=value).plain()


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("local-sgd", LocalSGD()),
        ("local_sgd(8)", LocalSGD()),
        ("Local-SGD(period=2, start=None)", LocalSGD(period=2)),
        (" powersgd ( rank = 4 ) ", PowerSGD(rank=4)),
        ("topk(1)", TopK(ratio=1.0)),
        ("DiLoCo(inner=50, lr=0.7)", DiLoCo()),
        ("diloco(momentum=None)", DiLoCo()),
    ],
)
def test_a_text_may_be_spelt_in_more_ways(text, policy):
    assert compression(text) == policy


WRONG = [
    ("powersdg", UnknownNameError, "unknown compression 'powersdg': did you mean 'powersgd'"),
    ("local-sdg(3)", UnknownNameError, "did you mean 'local-sgd'"),
    ("", UnknownNameError, "unknown compression '': Known: bf16, diloco"),
    ("fp16; import os", UnknownNameError, "unknown compression 'fp16; import os'"),
    ("powersgd(rank=0)", BadValueError, "powersgd: rank=0 is out of bounds: give at least 1"),
    ("powersgd(rank=1.5)", BadTypeError, "powersgd: rank=1.5 is not a whole number"),
    ("powersgd(rank=True)", BadTypeError, "powersgd: rank=True is not a whole number"),
    ("powersgd(start=1)", BadValueError, "powersgd: start=1 is out of bounds: give at least 2"),
    ("powersgd(rnk=2)", UnknownNameError, "unknown argument of powersgd 'rnk': did you mean"),
    ("powersgd(rank=__import__('os'))", BadValueError, "cannot read"),
    ("powersgd(rank=2", BadValueError, "unknown compression"),
    ("topk(ratio=0)", BadValueError, r"topk: ratio=0.0 is out of bounds: give a number in \(0, 1"),
    ("topk(ratio=1.1)", BadValueError, "topk: ratio=1.1 is out of bounds"),
    ("topk(ratio=1e999)", BadValueError, "topk: ratio=inf is out of bounds: give a finite"),
    (f"topk(ratio=1{'0' * 400})", BadValueError, "out of bounds: give a finite number"),
    ("topk(ratio='a')", BadTypeError, "topk: ratio='a' is not a number"),
    ("local-sgd(period=0)", BadValueError, "local-sgd: period=0 is out of bounds"),
    ("diloco(lr=0)", BadValueError, "diloco: lr=0.0 is out of bounds: give a number above 0"),
    ("diloco(momentum=1)", BadValueError, r"diloco: momentum=1.0 is out of bounds: .* \[0, 1\)"),
    ("fp16(2)", BadValueError, "fp16 takes 0 arguments"),
    ("none(3)", BadValueError, "'none' takes no numbers"),
    (3, BadTypeError, "compress=3: give 'none', 'fp16', 'bf16', 'powersgd'"),
    (["topk"], BadTypeError, r"compress=\['topk'\]: give"),
]


@pytest.mark.parametrize(("value", "kind", "message"), WRONG)
def test_what_is_wrong_is_said_with_the_fix(value, kind, message):
    with pytest.raises(kind, match=message):
        compression(value)
    with pytest.raises(EtudeError, match=message):
        Recipe(compress=value)
