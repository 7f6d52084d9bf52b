"""int8: by torchao for linear layers, weights alone for others; rounding, ranges, tied weights."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from etude.compression import linear_int8
from etude.compression.derived import LAYERS, compressible, weight_names
from etude.compression.int8_layers import (
    FAKE,
    INT8,
    Int8Weights,
    fake_quantise,
    quantised,
    restored,
    tied_layers,
    to_int8,
    unfake,
)
from etude.compression.linear_int8 import Int8Mode, input_scales, quantise
from etude.errors import MissingExtraError
from etude.torch_internals import own_parameters
from tests.compression.common import MODELS, Tied, cnn, inputs, mlp

pytest.importorskip("torchao")


@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(0, 99),
    st.sampled_from([1e-38, 1e-3, 1.0, 1e6]),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
@settings(deadline=None)
def test_rounding_is_off_by_at_most_half_a_step(rows, columns, seed, size, kind):
    g = torch.Generator().manual_seed(seed)
    size = max(size, 1e-30) if kind == torch.bfloat16 else size  # the scale must have digits left
    weight = size * torch.randn(rows, columns, generator=g, dtype=kind)
    held, scale = quantised(weight)
    assert held.dtype == torch.int8
    together = -(-64 // columns)
    assert (scale.shape, scale.dtype) == ((-(-rows // together), 1), kind)
    assert int(held.min()) >= -127
    whole, step = weight.double(), scale.double().repeat_interleave(together, 0)[:rows]
    # The scale itself is rounded to the type of the weight.
    slack = 127 * torch.finfo(kind).eps + 1e-5
    assert bool(((whole - held * step).abs() <= step * (0.5 + slack)).all())


def test_a_row_of_zeros_and_an_empty_weight():
    held, scale = quantised(torch.zeros(2, 3))
    assert not held.any()
    assert scale.tolist() == [[1.0]]
    assert quantised(torch.zeros(2, 64))[1].tolist() == [[1.0], [1.0]]
    assert quantised(torch.zeros(2, 0))[0].shape == (2, 0)


@pytest.mark.parametrize("name", MODELS)
def test_layers_with_int8_weights_compute_with_the_rounded_ones(name):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    rounded = copy.deepcopy(model)
    with torch.no_grad():
        for _, layer in compressible(rounded):
            for one in weight_names(layer):
                held, scale = quantised(own_parameters(layer)[one])
                own_parameters(layer)[one].copy_(restored(held, scale))
    to_int8(model, [name for name, _ in compressible(model)])
    assert torch.equal(model(inputs()), rounded(inputs()))
    assert torch.equal(copy.deepcopy(model)(inputs()), rounded(inputs()))
    held = [b for n, b in model.named_buffers() if n.endswith("_int8")]
    assert held
    assert all(b.dtype == torch.int8 for b in held)
    assert not [n for n, p in model.named_parameters() if p.ndim > 1]


def test_tied_weights_are_one_int8_tensor():
    model = Tied()
    assert set(tied_layers(model)) == {"table", "out"}
    to_int8(model, ["table", "out"])
    assert model.table.weight_int8 is model.out.weight_int8
    assert torch.equal(model.table.weight, model.out.weight)


@pytest.mark.parametrize("name", MODELS)
def test_training_with_rounded_weights_moves_the_weights_behind_them(name):
    torch.manual_seed(0)
    model = MODELS[name]()
    names = [one for one, _ in compressible(model)]
    fake_quantise(model, names)
    loss = model(inputs(8)).square().sum()
    loss.backward()
    weights = [p for p in model.parameters() if p.ndim > 1]
    assert all(p.grad is not None and p.grad.any() for p in weights)
    before = copy.deepcopy(model.state_dict())
    torch.optim.SGD(model.parameters(), 0.1).step()
    rounded = model(inputs())
    unfake(model)
    assert not all(torch.equal(before[n], v) for n, v in model.state_dict().items())
    model.eval()
    to_int8(model, names)
    torch.testing.assert_close(model.train()(inputs()), rounded)


def test_every_layer_has_its_classes():
    assert set(INT8) == set(FAKE) == set(LAYERS)


# ---- torchao -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", Int8Mode)
def test_linear_layers_are_close_to_what_they_were(mode):
    torch.manual_seed(0)
    model = mlp().eval()
    x = inputs(32)
    whole = model(x).detach()
    names = [name for name, layer in compressible(model)]
    scales = input_scales(model, names, [x], lambda net, batch: net(batch))
    assert set(scales) == set(names)
    quantise(model, names, mode, scales)
    found = model(x).detach()
    assert 0 < float((found - whole).abs().max()) < 0.05 * float(whole.abs().max())
    for name in names:
        layer = model.get_submodule(name)
        assert linear_int8.is_quantised(layer)
        assert linear_int8.mode_of(layer) == mode


@pytest.mark.parametrize("mode", Int8Mode)
@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_put_together_again_has_the_same_bits(mode, axes, bias):
    torch.manual_seed(0)
    layer = nn.Linear(10, 7, bias=bias)
    net = nn.Sequential(layer)
    x = torch.randn(*[3] * axes, 10)
    scales = input_scales(net, ["0"], [x], lambda net, batch: net(batch))
    fresh = nn.Linear(10, 7, bias=bias)
    fresh.load_state_dict(layer.state_dict())
    quantise(net, ["0"], mode, scales)
    linear_int8.hold(fresh, mode, linear_int8.plain_tensors(net[0]))
    assert torch.equal(fresh(x), net(x))


def test_inputs_of_several_shapes_have_no_scale():
    net = nn.Sequential(nn.Linear(4, 4))
    shapes = [torch.ones(2, 4), torch.ones(2, 3, 4)]
    assert not input_scales(net, ["0"], shapes, lambda net, batch: net(batch))
    quantise(net, ["0"], Int8Mode.STATIC, {})
    assert linear_int8.mode_of(net[0]) == Int8Mode.DYNAMIC


def test_the_int8_product_is_exact_on_this_processor():
    """Some processors add pairs of products with saturation: then torchao must be told so."""
    g = torch.Generator().manual_seed(0)
    net = nn.Linear(64, 16, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.where(torch.rand(16, 64, generator=g) > 0.5, 1.0, -1.0))
    x = torch.where(torch.rand(8, 64, generator=g) > 0.5, 1.0, -1.0)
    whole = net(x)
    quantise(net, [""], Int8Mode.DYNAMIC)
    torch.testing.assert_close(net(x), whole, rtol=0.02, atol=0.02)


def test_rounded_training_ends_as_plain_linear_layers():
    torch.manual_seed(0)
    model = mlp()
    kinds = [type(one) for one in model.modules()]
    names = [name for name, _ in compressible(model)]
    linear_int8.train_rounded(model, names)
    parameters = [n for n, _ in model.named_parameters()]
    assert parameters == [n for n, _ in mlp().named_parameters()]
    model(inputs()).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    linear_int8.forget_ranges(model)
    model = copy.deepcopy(model)
    linear_int8.end_rounding(model)
    assert [type(one) for one in model.modules()] == kinds


def test_a_convolution_is_none_of_torchaos():
    model = cnn()
    to_int8(model, ["0"])
    assert isinstance(model[0], Int8Weights)
    assert not linear_int8.is_quantised(model[0])


def test_without_torchao_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'etude\[compress\]'"):
        linear_int8.torchao()


def test_scales_add_at_most_a_sixteenth_to_the_bytes_of_a_long_weight():
    for shape in ((256, 8), (256, 64), (16, 8, 3, 3), (100, 1)):
        held, scale = quantised(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
        assert scale.numel() * 4 <= max(4, held.numel() / 16) + 4


def test_a_scale_for_each_row_of_earlier_versions_is_used_as_it_is():
    held = torch.tensor([[100, -50], [10, 127]], dtype=torch.int8)
    scale = torch.tensor([[0.5], [2.0]])
    assert restored(held, scale).tolist() == [[50.0, -25.0], [20.0, 254.0]]
