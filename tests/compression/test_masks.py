"""Masks: which weights go, and that they stay zero whatever an optimizer does."""

from __future__ import annotations

import copy
import pickle
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from etude.compression.derived import LAYERS, compressible, weight_names
from etude.compression.masks import MASKED, Scope, magnitude_masks, mask, unmask
from etude.errors import BadValueError
from etude.optimizers import build
from etude.torch_internals import own_parameters
from tests.compression.common import MODELS, Reader, Tied, cnn, inputs, mlp

SHARES = st.floats(0, 0.99)


@given(SHARES, st.sampled_from(list(MODELS)), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_over_all_layers_the_mask_is_that_of_torch(share, name, seed):
    torch.manual_seed(seed)
    model = MODELS[name]()
    masks = magnitude_masks(model, share, Scope.GLOBAL)
    peer = copy.deepcopy(model)
    layers = [(layer, one) for _, layer in compressible(peer) for one in weight_names(layer)]
    prune.global_unstructured(layers, prune.L1Unstructured, amount=share)
    buffers = dict(peer.named_buffers())
    assert {n: m.float().tolist() for n, m in masks.items()} == {
        n: buffers[f"{n}_mask"].tolist() for n in masks
    }
    total = sum(m.numel() for m in masks.values())
    assert sum(int((~m).sum()) for m in masks.values()) == round(share * total)


@given(SHARES, st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_in_each_layer_the_smallest_go(share, seed):
    torch.manual_seed(seed)
    model = cnn()
    for name, kept in magnitude_masks(model, share, Scope.LAYER).items():
        weight = model.get_parameter(name).detach().abs()
        assert int((~kept).sum()) == round(share * kept.numel())
        if kept.any() and not kept.all():
            assert weight[~kept].max() <= weight[kept].min()


@pytest.mark.parametrize("name", MODELS)
def test_a_masked_network_computes_as_one_with_zeros(name):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    zeroed = copy.deepcopy(model)
    masks = magnitude_masks(model, 0.6, Scope.GLOBAL)
    with torch.no_grad():
        for one, kept in masks.items():
            zeroed.get_parameter(one).masked_fill_(~kept, 0.0)
    mask(model, masks)
    assert torch.equal(model(inputs()), zeroed(inputs()))
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in zeroed.named_parameters()]
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(again(inputs()), zeroed(inputs()))
    unmask(model)
    assert torch.equal(model(inputs()), zeroed(inputs()))
    assert {type(one) for one in model.modules()} == {type(one) for one in zeroed.modules()}
    assert list(model.state_dict()) == list(zeroed.state_dict())


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("sgd", {"momentum": 0.9, "weight_decay": 0.1}),
        ("adam", {"weight_decay": 0.1}),
        ("adamw", {"weight_decay": 0.5}),
        ("rmsprop", {"momentum": 0.9}),
        ("adagrad", {}),
        ("lbfgs", {}),
    ],
)
@pytest.mark.parametrize("net", ["cnn", "lstm"])
def test_weights_that_are_gone_stay_exactly_zero_in_training(name, more, net):
    torch.manual_seed(1)
    model = MODELS[net]()
    masks = magnitude_masks(model, 0.7, Scope.GLOBAL)
    mask(model, masks)
    optimizer = build(name, model, lr=0.05, **more)
    mean = copy.deepcopy(model)

    def closure():
        optimizer.zero_grad()
        loss = model(inputs(16)).square().mean() + model(inputs(16))[:, 0].mean()
        loss.backward()
        return loss

    for _ in range(4):
        optimizer.step(closure)
        with torch.no_grad():
            for own, new in zip(mean.parameters(), model.parameters(), strict=True):
                own.lerp_(new, 0.1)
    moved = 0
    for one, kept in masks.items():
        gradient = dict(model.named_parameters())[one].grad
        assert gradient is not None
        assert not gradient[~kept].any()
        moved += int(gradient[kept].count_nonzero())
    assert moved
    for found in (model, mean):
        unmask(found)
        for one, kept in masks.items():
            weight = found.get_parameter(one)
            assert torch.equal(weight[~kept], torch.zeros_like(weight[~kept]))


def test_even_a_weight_that_is_written_stays_zero():
    model = mlp()
    masks = magnitude_masks(model, 0.5, Scope.LAYER)
    mask(model, masks)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(3.0)
    assert torch.equal(model[1].weight == 0, ~masks["1.weight"])
    unmask(model)
    assert torch.equal(model[1].weight == 0, ~masks["1.weight"])


def test_tied_weights_have_one_mask():
    torch.manual_seed(0)
    model = Tied()
    masks = magnitude_masks(model, 0.5, Scope.GLOBAL)
    assert set(masks) == {"table.weight", "hidden.weight"}
    mask(model, masks)
    assert torch.equal(model.table.weight, model.out.weight)
    assert own_parameters(model.table)["weight"] is own_parameters(model.out)["weight"]
    assert torch.equal(model.table.weight == 0, ~masks["table.weight"])
    unmask(model)
    assert model.table.weight is model.out.weight


def test_a_table_of_its_own_is_left_whole():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3))
    assert set(magnitude_masks(model, 0.9, Scope.GLOBAL)) == {"1.weight"}


def test_recurrent_layers_are_pruned_without_their_biases():
    masks = magnitude_masks(Reader(), 0.5, Scope.LAYER)
    assert set(masks) == {"lstm.weight_ih_l0", "lstm.weight_hh_l0", "head.weight"}


@pytest.mark.parametrize("model", [nn.Sequential(nn.BatchNorm1d(3)), nn.ReLU()])
def test_a_model_without_layers_to_prune_is_refused(model):
    said = "BatchNorm1d" if list(model.parameters()) else "no parameters"
    with pytest.raises(
        BadValueError, match=f"no layer that can be pruned: it has {re.escape(said)}|{said}"
    ):
        magnitude_masks(model, 0.5, Scope.GLOBAL)


def test_every_layer_has_a_masked_class_that_is_known_by_its_name():
    assert set(MASKED) == set(LAYERS)
    for base, kind in MASKED.items():
        assert issubclass(kind, base)
        assert pickle.loads(pickle.dumps(kind)) is kind
