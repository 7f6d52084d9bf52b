"""What is saved of a compressed network makes up the same network; damage is named."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from etude.compression.derived import compressible
from etude.compression.int8_layers import to_int8
from etude.compression.linear_int8 import Int8Mode, quantise
from etude.compression.masks import Scope, magnitude_masks, mask, unmask
from etude.compression.saved import BITS, VALUES, WeightsLayout, put_together, taken_apart
from etude.compression.structured import remove_channels
from etude.errors import StorageError
from tests.compression.common import MODELS, Reader, Tied, cnn, inputs


def settled(model: nn.Module) -> nn.Module:
    """Run some batches, so that batch norms hold other statistics than at first."""
    with torch.no_grad():
        for _ in range(3):
            model(inputs(16))
    return model.eval()


def again(build, layout: WeightsLayout, tensors) -> nn.Module:
    return put_together(build(), WeightsLayout.of(layout.plain()), tensors)


@given(
    st.floats(0, 0.99), st.sampled_from(list(MODELS)), st.sampled_from(Scope), st.integers(0, 99)
)
@settings(max_examples=20, deadline=None)
def test_a_pruned_network_comes_back_to_the_bit(share, name, scope, seed):
    torch.manual_seed(seed)
    model = settled(MODELS[name]())
    masks = magnitude_masks(model, share, scope)
    mask(model, masks)
    unmask(model)
    layout, tensors = taken_apart(model, {}, masks)
    same = again(MODELS[name], layout, tensors)
    assert torch.equal(same(inputs()), model(inputs()))
    for one, value in model.state_dict().items():
        assert torch.equal(same.state_dict()[one], value)
    kept = sum(int(m.sum()) for m in masks.values())
    whole = sum(m.numel() for m in masks.values())
    if share > 0.1 and scope == Scope.LAYER:
        size = sum(t.numel() * t.element_size() for n, t in tensors.items() if "#" in n)
        assert size <= 4 * kept + whole / 8 + len(masks)


@given(st.floats(0, 0.95), st.sampled_from(["mlp", "cnn", "residual"]), st.integers(0, 99))
@settings(max_examples=12, deadline=None)
def test_a_smaller_network_comes_back_to_the_bit(share, name, seed):
    torch.manual_seed(seed)
    model = settled(MODELS[name]())
    removal = remove_channels(model, share, [inputs()])
    layout, tensors = taken_apart(model, removal.sizes, ())
    assert torch.equal(again(MODELS[name], layout, tensors)(inputs()), model(inputs()))


@pytest.mark.parametrize("mode", [Int8Mode.DYNAMIC, Int8Mode.QAT])
@pytest.mark.parametrize("name", MODELS)
def test_an_int8_network_comes_back_to_the_bit(mode, name):
    pytest.importorskip("torchao")
    torch.manual_seed(0)
    model = settled(MODELS[name]())
    layers = {one: type(layer) for one, layer in compressible(model)}
    quantise(model, [one for one, kind in layers.items() if kind is nn.Linear], mode)
    to_int8(model, [one for one, kind in layers.items() if kind is not nn.Linear])
    layout, tensors = taken_apart(model, {}, ())
    assert torch.equal(again(MODELS[name], layout, tensors)(inputs()), model(inputs()))


def test_tied_weights_are_kept_once_and_stay_tied():
    torch.manual_seed(0)
    x = torch.arange(6).view(2, 3)
    model = Tied().eval()
    layout, tensors = taken_apart(model, {}, ())
    assert layout.same == {"out.weight": "table.weight"}
    same = again(Tied, layout, tensors)
    assert same.table.weight is same.out.weight
    assert torch.equal(same(x), model(x))
    to_int8(model, ["table", "out"])
    layout, tensors = taken_apart(model, {}, ())
    assert sum(t.dtype == torch.int8 for t in tensors.values()) == 1
    same = again(Tied, layout, tensors)
    assert same.table.weight_int8 is same.out.weight_int8
    assert torch.equal(same(x), model(x))


def pruned() -> tuple[WeightsLayout, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    model = cnn()
    masks = magnitude_masks(model, 0.8, Scope.GLOBAL)
    mask(model, masks)
    unmask(model)
    return taken_apart(model, {}, masks)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda t: t.pop("9.bias"), "Missing key"),
        (lambda t: t.update(more=torch.ones(1)), "Unexpected key"),
        (lambda t: t.update({"9.bias": torch.ones(3)}), "size mismatch"),
        (lambda t: t.pop("7.weight" + BITS), "7.weight"),
        (
            lambda t: t.update({"7.weight" + BITS: torch.zeros(3, dtype=torch.uint8)}),
            "other places",
        ),
        (lambda t: t.update({"7.weight" + VALUES: torch.ones(3)}), "more or fewer values"),
    ],
)
def test_a_damaged_file_is_named(damage, said):
    layout, tensors = pruned()
    damage(tensors)
    with pytest.raises(StorageError, match=said):
        put_together(cnn(), layout, tensors)


@pytest.mark.parametrize(
    "change",
    [
        {"sizes": 3},
        {"linear": {"7": "fast"}},
        {"linear": ["7"]},
        {"packed": [1]},
        {"weights": 3},
        {"same": {"a": 1}},
    ],
)
def test_a_damaged_description_is_named(change):
    layout, _ = pruned()
    with pytest.raises(StorageError, match="description of the compressed model is damaged"):
        WeightsLayout.of({**layout.plain(), **change})
    with pytest.raises(StorageError, match="description of the compressed model is damaged"):
        WeightsLayout.of(None)


def test_the_tensors_of_another_network_are_refused():
    layout, tensors = pruned()
    with pytest.raises(StorageError, match="damaged, or of another task"):
        put_together(Reader(), layout, tensors)
    held = copy.deepcopy(cnn())
    to_int8(held, ["0"])
    layout, tensors = taken_apart(held, {}, ())
    with pytest.raises(StorageError, match="damaged, or of another task"):
        put_together(Reader(), layout, tensors)
