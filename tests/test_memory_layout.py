"""Tensors come back as they lay: values, strides, what they share, and where they begin."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from etude.engines.process.state_transfer import StateTransfer, pack, unpack
from etude.errors import StorageError
from etude.memory_layout import ALIGNED, overlaps, reach, span
from etude.storage.state_tree import flatten, shared, unflatten
from etude.trials.host_states import HostStates

DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.complex64,
    torch.complex128,
    torch.int64,
    torch.uint8,
    torch.uint16,
    torch.bool,
    torch.float8_e4m3fn,
]


def by_file(tree: Any) -> Any:
    value, named = flatten(tree)
    return unflatten(json.loads(json.dumps(value)), load(save(named)))


def by_transfer(tree: Any) -> Any:
    transfer = StateTransfer(2**20)
    return next(transfer.get(transfer.put([tree])))


ROUTES: dict[str, Callable[[Any], Any]] = {
    "memory": lambda tree: unflatten(*flatten(tree)),
    "shared": lambda tree: unflatten(*flatten(tree, shared)),
    "host": lambda tree: next(HostStates([tree]).read()),
    "file": by_file,
    "bytes": lambda tree: unpack(pack(tree)),
    "transfer": by_transfer,
}


@st.composite
def memories(draw: Any) -> Tensor:
    """A row of numbers that begins anywhere in its memory."""
    dtype = draw(st.sampled_from(DTYPES))
    count = draw(st.sampled_from([1, 12, 40, 700]))
    width = dtype.itemsize
    row = (torch.arange(count * width) % 251).to(torch.uint8)
    if dtype is torch.bool:
        row %= 2
    memory = torch.zeros(count * width + ALIGNED, dtype=torch.uint8)
    start = width * draw(st.integers(0, ALIGNED // width))
    memory[start : start + len(row)] = row
    return memory[start : start + len(row)].view(dtype)


@st.composite
def views(draw: Any) -> list[Tensor]:
    """Views of one or two memories: strided, expanded, permuted, empty, 0-d, overlapping."""
    found = []
    for _ in range(draw(st.integers(1, 2))):
        row = draw(memories())
        for _ in range(draw(st.integers(1, 3))):
            shape = draw(st.lists(st.integers(0, 4), max_size=3))
            stride = [draw(st.integers(0, 6)) for _ in shape]
            room = len(row) - reach(shape, stride)
            if room < 0:
                continue
            offset = row.storage_offset() + draw(st.integers(0, room))
            view = row.as_strided(shape, stride, offset)
            if view.is_complex() and draw(st.booleans()):
                view = draw(st.sampled_from([torch.view_as_real, torch.conj]))(view)
            found.append(view)
    return found


def raw(tensor: Tensor) -> bytes:
    row = torch.empty(tensor.numel(), dtype=tensor.dtype)
    row.view(tensor.shape).copy_(tensor)
    return bytes(row.view(torch.uint8).tolist())


def signs(tensor: Tensor) -> tuple[bool, bool]:
    return tensor.is_conj(), tensor.is_neg()


def place(tensor: Tensor) -> tuple[int, int]:
    start = tensor.data_ptr()
    return start, start + reach(tensor.shape, tensor.stride()) * tensor.element_size()


@pytest.mark.parametrize("route", ROUTES)
@given(found=views())
def test_tensors_come_back_as_they_lay(route, found):
    back = ROUTES[route](dict(enumerate(found)))
    for index, one in enumerate(found):
        other = back[index]
        assert (one.dtype, one.shape, one.stride()) == (other.dtype, other.shape, other.stride())
        assert signs(one) == signs(other)
        assert raw(one) == raw(other)
        if one.numel():
            assert one.data_ptr() % ALIGNED == other.data_ptr() % ALIGNED
            assert one.untyped_storage().data_ptr() != other.untyped_storage().data_ptr()
    for i, j in itertools.combinations([k for k, t in enumerate(found) if t.numel()], 2):
        (start, end), (begin, stop) = place(found[i]), place(found[j])
        if start < stop and begin < end:
            assert begin - start == back[j].data_ptr() - back[i].data_ptr()
        else:
            (first, last), (low, high) = place(back[i]), place(back[j])
            assert last <= low or high <= first


@pytest.mark.parametrize("route", ROUTES)
def test_parts_of_one_flat_memory_stay_parts_of_one(route):
    flat = torch.arange(30.0)
    tree = {"a": flat[:6].view(2, 3), "b": flat[7:11], "c": flat[12:].view(3, 6).T, "n": flat[4]}
    back = ROUTES[route](tree)
    for name, tensor in tree.items():
        assert torch.equal(back[name], tensor)
        assert back[name].storage_offset() == tensor.storage_offset()
        assert back[name].untyped_storage().nbytes() == flat.nbytes
    assert len({t.untyped_storage().data_ptr() for t in back.values()}) == 1
    back["a"].fill_(7.0)
    assert back["n"] == 7.0


def test_a_small_part_of_a_large_memory_is_kept_alone():
    large = torch.zeros(2**16, dtype=torch.float64)
    large[1000:1003] = 1.0
    value, named = flatten({"a": large[1000:1003], "b": large[9001:9002]})
    assert sum(tensor.nbytes for tensor in named.values()) == 32
    back = unflatten(value, named)
    assert back["a"].tolist() == [1.0] * 3
    assert back["b"].data_ptr() % ALIGNED == large[9001:].data_ptr() % ALIGNED


def test_a_plain_tensor_is_kept_by_its_name_alone():
    value, named = flatten({"w": torch.ones(2, 3)})
    assert value == {"w": {"$": "tensor", "name": "/w"}}
    assert named["/w"].shape == (2, 3)


def test_a_part_that_two_names_share_is_kept_once():
    weight = torch.ones(100)
    _, named = flatten({"w": weight, "tied": weight, "part": weight[::2]})
    assert sum(tensor.nbytes for tensor in named.values()) == weight.nbytes


@pytest.mark.parametrize("route", ROUTES)
def test_a_sparse_tensor_comes_back(route):
    index = torch.tensor([[3, 1, 3]])
    tensor = torch.sparse_coo_tensor(
        index, torch.arange(6.0).view(3, 2), (5, 2), check_invariants=True
    )
    for one in (tensor, tensor.coalesce()):
        other = ROUTES[route]({"m": one})["m"]
        assert other.is_coalesced() == one.is_coalesced()
        assert torch.equal(other._indices(), one._indices())
        assert torch.equal(other._values(), one._values())
        assert other.shape == one.shape


@pytest.mark.parametrize("tensor", [torch.empty(2, device="meta"), torch.eye(2).to_mkldnn()])
def test_what_has_no_memory_is_refused_by_name(tensor):
    with pytest.raises(StorageError, match=r"tensor at '/opt/m' \((meta|Tensor, torch._mkldnn)"):
        flatten({"opt": {"m": tensor}})


@pytest.mark.parametrize(
    "change",
    [
        {"stride": [1, -2]},
        {"stride": [1]},
        {"stride": [2**40, 1]},
        {"stride": [True, 1]},
        {"stride": "ab"},
        {"offset": 3},
        {"offset": 2**70},
        {"lead": 64},
        {"lead": None},
        {"size": 1},
        {"shape": [2, 3, 5]},
        {"shape": [[], []]},
        {"dtype": "float99"},
        {"dtype": "nn"},
        {"dtype": ["float32"]},
        {"dtype": "int8", "whole": True},
        {"name": "/other"},
        {"name": []},
    ],
)
def test_a_damaged_layout_is_refused(change):
    value, named = flatten({"w": torch.ones(3, 2).T})
    with pytest.raises(StorageError, match=r"layout|the state is damaged"):
        unflatten({"w": value["w"] | change}, named)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 7)), max_size=3))
def test_elements_that_share_a_place_are_found(steps):
    shape, stride = [s for s, _ in steps], [s for _, s in steps]
    tensor = torch.arange(100).as_strided(shape, stride)
    places = tensor.reshape(-1).tolist()
    if len(set(places)) < len(places):
        assert overlaps(tensor)
    assert span(tensor).tolist() == list(range(max(places, default=-1) + 1))
