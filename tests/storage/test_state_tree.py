"""A nested state becomes JSON and tensors, and comes back as it was."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from etude.errors import StorageError
from etude.storage.state_tree import flatten, unflatten

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


@st.composite
def tensors(draw: Any) -> Tensor:
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    dtype = draw(st.sampled_from(DTYPES))
    values = torch.arange(math.prod(shape)).reshape(shape)
    return (values + draw(st.integers(0, 9))).to(dtype)


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), tensors()
)
keys = st.one_of(
    st.sampled_from(["$", "a", "b", "a/b", "/", "0", "a'", ""]), st.integers(0, 3), st.booleans()
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(keys, inner, max_size=4),
    ),
    max_leaves=12,
)


def same(one: Any, two: Any) -> bool:
    if type(one) is not type(two):
        return False
    if isinstance(one, Tensor):
        return one.dtype == two.dtype and one.shape == two.shape and torch.equal(one, two)
    if isinstance(one, float):
        return one.hex() == two.hex()
    if isinstance(one, dict):
        pairs = zip(one.items(), two.items(), strict=True)
        return len(one) == len(two) and all(same(a, c) and same(b, d) for (a, b), (c, d) in pairs)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    return bool(one == two)


@given(trees)
def test_a_tree_comes_back_as_it_was(tree):
    value, named = flatten(tree)
    text = json.dumps(value, allow_nan=False)  # what JSON cannot hold is gone
    assert same(unflatten(json.loads(text), load(save(named))), tree)


def test_names_that_spell_one_path_do_not_collide():
    tree = {"a/b": torch.tensor(1), "a": {"b": torch.tensor(2)}, 0: {"0": torch.tensor(3)}}
    assert same(unflatten(*flatten(tree)), tree)
    mixed = {0: torch.tensor(1), "0": torch.tensor(2)}
    assert same(unflatten(*flatten(mixed)), mixed)


def test_a_flat_tensor_is_a_copy():
    weight = torch.zeros(3)
    _, named = flatten({"w": weight, "turned": torch.zeros(3, 2).T})
    weight += 1
    assert [t.tolist() for t in named.values()] == [[0.0] * 3, [[0.0] * 3] * 2]
    assert all(t.is_contiguous() for t in named.values())


def test_what_no_safe_format_can_hold_is_named():
    with pytest.raises(StorageError, match=r"'/model/extra' is a set, which no safe format"):
        flatten({"model": {"extra": {1, 2}}})
