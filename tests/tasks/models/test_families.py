"""What every family of models has in common: each option acts, or is refused with its fix."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn

from etude.errors import BadTypeError, BadValueError, UnknownNameError
from etude.tasks import models

IMAGE = partial(torch.randn, 6, 1, 8, 8)
ROWS = partial(torch.randn, 6, 8, 8)
PICTURES = partial(torch.randn, 6, 4, 1, 8, 8)


def picture_and_question():
    return torch.randn(6, 1, 8, 8), torch.randint(7, (6, 5))


FAMILIES = {
    "mlp": (partial(models.mlp, inputs=64, outputs=10, depth=3), IMAGE),
    "autoencoder": (partial(models.autoencoder, inputs=64), IMAGE),
    "cnn": (partial(models.cnn, channels=1, size=8, outputs=10, depth=3), IMAGE),
    "resnet": (partial(models.resnet, channels=1, outputs=10, width=8, stages=2), IMAGE),
    "rnn": (partial(models.rnn, inputs=8, outputs=10, depth=2), ROWS),
    "lstm": (partial(models.lstm, inputs=8, outputs=10, depth=2), ROWS),
    "gru": (partial(models.gru, inputs=8, outputs=10, depth=2), ROWS),
    "transformer": (partial(models.transformer, inputs=8, context=8, outputs=10), ROWS),
    "cnn_lstm": (partial(models.cnn_lstm, channels=1, size=8, outputs=10, depth=3), PICTURES),
    "vqa": (
        partial(models.vqa, channels=1, size=8, vocabulary=7, outputs=10, depth=3),
        picture_and_question,
    ),
}
DENSE = ("mlp", "autoencoder", "cnn", "resnet", "cnn_lstm", "vqa")
each = pytest.mark.parametrize("family", FAMILIES)


def build(family, seed=0, **options):
    torch.manual_seed(seed)
    return FAMILIES[family][0](**options)


def output(family, *, train=False, **options):
    model = build(family, **options).train(train)
    torch.manual_seed(1)
    return model(*inputs(family))


def inputs(family):
    """Return what a network of a family takes, as a tuple."""
    drawn = FAMILIES[family][1]()
    return drawn if isinstance(drawn, tuple) else (drawn,)


def count(model):
    return sum(p.numel() for p in model.parameters())


@each
def test_draws_its_weights_from_the_global_generator(family):
    first, again, other = build(family, 0), build(family, 0), build(family, 1)
    pairs = list(zip(first.parameters(), again.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert any(not torch.equal(a, c) for a, _, c in pairs)


@each
@pytest.mark.parametrize("option", ["depth", "width"])
def test_depth_and_width_add_parameters(family, option):
    default = 2 if option == "depth" else 16
    assert count(build(family, **{option: 2 * default})) > count(build(family, **{option: default}))


@each
def test_residual_acts(family):
    assert not torch.equal(output(family, residual=True), output(family, residual=False))


@each
@pytest.mark.parametrize("name", ["none", "batch", "layer", "group"])
def test_normalisation_acts_or_is_refused(family, name):
    if family not in DENSE and name in ("batch", "group"):
        with pytest.raises(
            BadValueError, match=f"normalisation='{name}' has no meaning here.*give"
        ):
            build(family, normalisation=name)
        return
    kinds = {"none": (), "batch": nn.modules.batchnorm._BatchNorm}
    kind = kinds.get(name, (nn.LayerNorm, nn.GroupNorm))
    found = [m for m in build(family, normalisation=name).modules() if isinstance(m, kind)]
    assert bool(found) == (name != "none")


@each
@pytest.mark.parametrize("name", sorted(models.ACTIVATIONS))
def test_activation_acts_or_is_refused(family, name):
    free = {"lstm": ("tanh",), "gru": ("tanh",), "rnn": ("tanh", "relu")}
    if name not in free.get(family, models.ACTIVATIONS):
        with pytest.raises(BadValueError, match=f"'{name}' has no meaning here.*activation='tanh'"):
            build(family, activation=name)
        return
    # tanh is odd and bounded, the others are not both: equal outputs would mean it is ignored.
    other = "relu" if name == "tanh" else "tanh"
    if other in free.get(family, models.ACTIVATIONS):
        assert not torch.equal(output(family, activation=name), output(family, activation=other))
    else:
        assert torch.isfinite(output(family, activation=name)).all()


@each
@pytest.mark.parametrize("name", sorted(set(models.INITIALISATIONS) - {"default"}))
def test_initialisation_acts(family, name):
    default, named = build(family), build(family, initialisation=name)
    assert count(default) == count(named)
    same = [
        torch.equal(a, b)
        for (key, a), b in zip(default.named_parameters(), named.parameters(), strict=True)
        if key.endswith(("linear.weight", "conv.weight", "head.weight", "weight_hh_l0"))
    ]
    assert same
    assert not any(same)
    assert torch.isfinite(output(family, initialisation=name)).all()


@each
def test_dropout_acts_in_training_alone(family):
    assert torch.equal(output(family, dropout=0.5), output(family))
    model = build(family, dropout=0.5).train()
    x = inputs(family)
    torch.manual_seed(0)
    first, second = model(*x), model(*x)
    torch.manual_seed(0)
    assert not torch.equal(first, second)
    if not any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
        assert torch.equal(first, model(*x))


@each
def test_every_parameter_gets_a_gradient(family):
    model = build(family, normalisation="layer", residual=True)
    model(*inputs(family)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("family", DENSE)
def test_no_bias_that_a_normalisation_would_undo(family):
    model = build(family, normalisation="batch")
    pairs = [pair for module in model.modules() for pair in pairwise(module.children())]
    before = [a for a, b in pairs if isinstance(b, nn.modules.batchnorm._BatchNorm)]
    assert before
    assert all(layer.bias is None for layer in before)


@each
@pytest.mark.parametrize("option", ["depth", "width"])
def test_bad_sizes(family, option):
    for value in (0, -3):
        with pytest.raises(BadValueError, match=f"{option}={value} is out of bounds"):
            build(family, **{option: value})
    for value in (True, 2.0, "3"):
        with pytest.raises(BadTypeError, match=f"{option}={value!r} is a"):
            build(family, **{option: value})


@each
def test_bad_names_and_flags(family):
    with pytest.raises(UnknownNameError, match="unknown initialisation 'he'"):
        build(family, initialisation="he")
    with pytest.raises(BadTypeError, match="residual='yes' is a str: give true or false"):
        build(family, residual="yes")
    with pytest.raises(BadValueError, match=r"dropout=-0\.1 is out of bounds"):
        build(family, dropout=-0.1)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("family", ["mlp", "autoencoder", "cnn", "resnet", "transformer"])
def test_runs_over_stacked_weights_as_each_alone(family):
    members = [build(family, seed, normalisation="layer").eval() for seed in range(2)]
    parameters, buffers = torch.func.stack_module_state(members)
    x = inputs(family)

    def call(p, b):
        return torch.func.functional_call(members[0], (p, b), x)

    together = torch.func.vmap(call)(parameters, buffers)
    for model, y in zip(members, together, strict=True):
        torch.testing.assert_close(model(*x), y, atol=1e-5, rtol=1e-4)
