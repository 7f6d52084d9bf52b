"""A kind that is called wrongly, or not at all, says how it is called."""

from __future__ import annotations

import inspect
import operator

import pytest

from etude.errors import BadTypeError, UnknownNameError
from etude.recipe import Recipe
from etude.schedules import KINDS, cosine, parse, warmup

CLASSES = {name: row.make for name, row in KINDS.items() if isinstance(row.make, type)}


@pytest.mark.parametrize("name", CLASSES)
def test_an_unknown_argument_is_answered_with_the_known_ones(name):
    known = sorted(inspect.signature(CLASSES[name]).parameters)
    with pytest.raises(UnknownNameError, match=f"unknown argument of {name} 'nope'") as caught:
        CLASSES[name](nope=1)
    assert str(caught.value).endswith(f"Known: {', '.join(known)}")


@pytest.mark.parametrize("name", CLASSES)
def test_too_many_arguments_are_answered_with_their_names(name):
    known = ", ".join(inspect.signature(CLASSES[name]).parameters)
    with pytest.raises(BadTypeError, match=f"{name} takes .* Its arguments: ") as caught:
        CLASSES[name](*[1] * 20)
    assert str(caught.value).endswith(known)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("work", [operator.mul, operator.add, operator.rshift])
def test_a_kind_that_is_not_called_is_told_to_be(name, work):
    for first, second in ((CLASSES[name], 0.1), (0.1, CLASSES[name])):
        with pytest.raises(BadTypeError, match=rf"call it, {name}\(\.\.\.\)"):
            work(first, second)


@pytest.mark.parametrize("name", KINDS)
def test_neither_parse_nor_a_recipe_takes_a_kind_for_a_schedule(name):
    for reader in (parse, lambda make: Recipe(schedule=make)):
        with pytest.raises((BadTypeError, ValueError), match=f"{name} is called with parentheses"):
            reader(KINDS[name].make)


def test_a_segment_that_is_not_called_is_named():
    with pytest.raises(BadTypeError, match=r"which is not called: cosine\(\.\.\.\)"):
        warmup(3) >> cosine


@pytest.mark.parametrize(("named", "fix"), [({"steps": 30}, 30), ({"epochs": 3}, "3 epochs")])
def test_the_length_under_another_name_is_answered_with_its_own(named, fix):
    with pytest.raises(BadTypeError, match="has no argument") as caught:
        cosine(**named)
    assert f"cosine(length={fix!r})" in str(caught.value)
    assert cosine(length=fix) == cosine(fix)
