import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from etude.errors import UnknownNameError
from etude.tasks import models
from etude.tasks.models.initialisation import INITIALISATIONS, initialise, weights

NAMED = sorted(set(INITIALISATIONS) - {"default"})


def drawn(layer, name, seed=0):
    torch.manual_seed(seed)
    return initialise(layer, name)


@given(
    fan_in=st.integers(150, 400),
    fan_out=st.integers(150, 400),
    kind=st.sampled_from(["uniform", "normal"]),
)
def test_variances_are_the_papers(fan_in, fan_out, kind):
    expected = {
        "xavier": 2 / (fan_in + fan_out),
        "he": 2 / fan_in,
    }
    for rule, variance in expected.items():
        weight = drawn(nn.Linear(fan_in, fan_out), f"{rule}_{kind}").weight
        assert weight.std().item() == pytest.approx(math.sqrt(variance), rel=0.03)
        assert abs(weight.mean().item()) < 0.05 * math.sqrt(variance)


def test_a_convolutions_fan_counts_its_kernel():
    weight = drawn(nn.Conv2d(64, 64, 3), "he_normal").weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.03)


@pytest.mark.parametrize(("name", "std"), [("uniform", 0.05 / math.sqrt(3)), ("normal", 0.05)])
@pytest.mark.parametrize("width", [100, 900])
def test_plain_ones_do_not_look_at_the_size(name, std, width):
    weight = drawn(nn.Linear(width, 300), name).weight
    assert weight.std().item() == pytest.approx(std, rel=0.03)


def test_uniform_is_bounded_and_normal_is_not():
    bound = math.sqrt(6 / 600)
    assert drawn(nn.Linear(300, 300), "xavier_uniform").weight.abs().max().item() <= bound
    assert drawn(nn.Linear(300, 300), "xavier_normal").weight.abs().max().item() > bound


@pytest.mark.parametrize("shape", [(8, 8), (5, 9), (9, 5)])
def test_orthogonal(shape):
    weight = drawn(nn.Linear(*shape), "orthogonal").weight.detach()
    small = min(shape)
    gram = weight @ weight.T if len(weight) == small else weight.T @ weight
    torch.testing.assert_close(gram, torch.eye(small), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("cell", "gates"), [("rnn", 1), ("lstm", 4), ("gru", 3)])
def test_each_gate_is_a_matrix_of_its_own(cell, gates):
    model = drawn(models.recurrent(cell, inputs=6, outputs=2, width=32), "orthogonal")
    for gate in model.layers[0].cell.weight_hh_l0.detach().chunk(gates):
        torch.testing.assert_close(gate @ gate.T, torch.eye(32), atol=1e-5, rtol=0)
    xavier = drawn(models.recurrent(cell, inputs=200, outputs=2, width=200), "xavier_normal")
    std = xavier.layers[0].cell.weight_ih_l0.std().item()
    assert std == pytest.approx(math.sqrt(2 / 400), rel=0.03)


@pytest.mark.parametrize("name", NAMED)
def test_biases_become_zero_and_normalisations_stay(name):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LSTM(4, 3))
    nn.init.constant_(model[1].weight, 0.3)
    drawn(model, name)
    assert not model[0].bias.any()
    assert not model[3].bias_ih_l0.any()
    assert (model[1].weight == 0.3).all()


def test_default_keeps_every_number():
    layer = nn.Linear(5, 5)
    before = layer.weight.clone()
    assert initialise(layer, "default") is layer
    assert torch.equal(layer.weight, before)


@given(name=st.sampled_from(NAMED), seed=st.integers(0, 99))
def test_drawn_from_torchs_global_generator(name, seed):
    first, again = (drawn(nn.Linear(4, 4), name, seed).weight for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, drawn(nn.Linear(4, 4), name, seed + 1).weight)


def test_every_matrix_is_visited():
    model = models.transformer(inputs=8, context=4, outputs=3, depth=2)
    visited = {w.data_ptr() for w in weights(model)}
    matrices = {m.weight.data_ptr() for m in model.modules() if isinstance(m, nn.Linear)}
    assert visited == matrices


def test_an_unknown_name():
    with pytest.raises(UnknownNameError, match="did you mean 'he_normal'"):
        initialise(nn.Linear(2, 2), "he_norml")
