import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from etude.errors import BadTypeError, BadValueError, UnknownNameError
from etude.tasks.models import parts


@pytest.mark.parametrize("name", sorted(set(parts.ACTIVATIONS) - {"identity"}))
def test_an_activation_is_torchs_function_of_that_name(name):
    x = torch.linspace(-3, 3, 61)
    function = getattr(torch, name, None) if name in ("tanh", "sigmoid") else getattr(F, name)
    assert torch.equal(parts.activation(name)(x), function(x))


def test_identity_changes_nothing():
    x = torch.randn(5)
    assert torch.equal(parts.activation("identity")(x), x)


def moments(x, axes):
    return x.mean(axes), x.var(axes, correction=0)


@pytest.mark.parametrize("axes", [0, 2])
@pytest.mark.parametrize(
    ("name", "over"),
    [
        ("batch", lambda x: [i for i in range(x.ndim) if i != 1]),
        ("layer", lambda x: list(range(1, x.ndim))),
    ],
)
def test_statistics_are_zero_and_one(name, over, axes):
    x = 3 + 5 * torch.randn(16, 8, *[4] * axes)
    y = parts.normalisation(name, 8, axes=axes)(x)
    mean, variance = moments(y, over(x))
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-5, rtol=0)
    torch.testing.assert_close(variance, torch.ones_like(variance), atol=1e-3, rtol=0)


@given(width=st.integers(1, 96))
def test_groups_divide_the_features_and_are_no_smaller_than_four(width):
    groups = parts.normalisation("group", width, axes=2).num_groups
    assert width % groups == 0
    assert groups <= 8
    assert groups == 1 or width // groups >= 4


def test_group_statistics():
    x = 3 + 5 * torch.randn(16, 8, 4, 4)
    y = parts.normalisation("group", 8, axes=2)(x).unflatten(1, (2, 4))
    mean, variance = moments(y, (2, 3, 4))
    torch.testing.assert_close(mean, torch.zeros(16, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(variance, torch.ones(16, 2), atol=1e-3, rtol=0)


def test_none_is_the_identity():
    assert isinstance(parts.normalisation("none", 4), nn.Identity)


def test_dropout_drops_its_share_in_training_alone():
    layer = parts.dropout(0.25)
    x = torch.ones(20_000)
    torch.manual_seed(0)
    y = layer(x)
    assert (y == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert y.max().item() == pytest.approx(1 / 0.75)
    layer.eval()
    assert torch.equal(layer(x), x)


def test_refusals():
    with pytest.raises(UnknownNameError, match="unknown activation 'rellu': did you mean 'relu'"):
        parts.activation("rellu")
    with pytest.raises(UnknownNameError, match=r"unknown normalisation 'btch'.*'batch'"):
        parts.normalisation("btch", 4)
    with pytest.raises(BadValueError, match=r"width=1 would turn every value into 0: give width"):
        parts.normalisation("layer", 1)
    with pytest.raises(BadValueError, match=r"dropout=1 is out of bounds.*below 1"):
        parts.dropout(1)
    with pytest.raises(BadValueError, match="dropout=nan is out of bounds"):
        parts.dropout(float("nan"))
    with pytest.raises(BadTypeError, match="dropout=True is a bool"):
        parts.dropout(True)
    with pytest.raises(BadValueError, match="neither of inputs= and vocabulary= given"):
        parts.check_source(None, None)
    with pytest.raises(BadValueError, match="both of inputs= and vocabulary= given"):
        parts.check_source(1, 2)
