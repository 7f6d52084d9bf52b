"""The size of weights beside that which a layer draws itself, and what too large ones do."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from etude.diagnosis.evidence.measures import weights_at_start
from etude.diagnosis.evidence.usual_weights import usual_size
from etude.diagnosis.finding import Cause
from etude.diagnosis.history import Quantity
from tests.diagnosis.programs import classes, net, opened

LAYERS = (
    nn.Linear(60, 50),
    nn.Bilinear(20, 30, 40),
    nn.Conv1d(8, 24, 5),
    nn.Conv2d(12, 24, 3, groups=3),
    nn.ConvTranspose2d(12, 24, 3),
    nn.ConvTranspose2d(12, 24, 3, groups=4),
    nn.RNN(30, 40),
    nn.LSTM(30, 40, num_layers=2),
    nn.GRU(30, 40, bidirectional=True),
    nn.GRUCell(30, 40),
    nn.Embedding(100, 40),
    nn.EmbeddingBag(100, 40),
)


@pytest.mark.parametrize("module", LAYERS, ids=lambda one: type(one).__name__)
def test_the_usual_size_is_that_which_torch_draws(module):
    torch.manual_seed(0)
    module.reset_parameters()
    matrices = [p for p in module.parameters() if p.ndim > 1]
    assert matrices
    for weight in matrices:
        size = float(weight.detach().square().mean().sqrt())
        assert usual_size(module, weight) == pytest.approx(size, rel=0.06)


def test_vectors_and_unknown_layers_have_no_usual_size():
    layer = nn.Linear(3, 4)
    assert math.isnan(usual_size(layer, layer.bias))
    assert math.isnan(usual_size(nn.LayerNorm(4), layer.weight))
    own = nn.Module()
    own.weight = nn.Parameter(torch.ones(3, 3))
    assert math.isnan(usual_size(own, own.weight))


def tanh_net(factor, layers=(2,)):
    torch.manual_seed(0)
    model = net(8, 32, 32, 3, between=lambda width: [nn.Tanh()])
    with torch.no_grad():
        for number in layers:
            model[number].weight.mul_(factor)
    return model


def watched(model, updates=120, lr=1e-3, rises=False):
    x, y = classes()
    y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))] if rises else y
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    with opened(model, optimizer) as w:
        for _ in range(updates):
            i = torch.randint(0, len(x), (32,))
            optimizer.zero_grad()
            cross_entropy(model(x[i]), y[i]).backward()
            optimizer.step()
    return w.report()


def test_the_size_is_read_before_the_first_update_and_there_alone():
    history = watched(tanh_net(10.0), lr=50.0, updates=10).history
    found = history.of_layers(Quantity.WEIGHTS_OVER_USUAL)
    np.testing.assert_allclose(found[0], [1.0, 10.0, 1.0], rtol=0.15)
    assert np.isnan(found[1:]).all()
    np.testing.assert_allclose(weights_at_start(history), [0.0, 1.0, 0.0], atol=0.06)


def test_flat_units_behind_weights_drawn_too_large_are_laid_to_the_weights():
    """What must be changed is the cause: the same activation learns behind usual weights."""
    report = watched(tanh_net(60.0, (0, 2)), lr=1e-4)
    causes = {one.what: one for one in report.findings if isinstance(one.what, Cause)}
    assert Cause.BAD_INITIALISATION in causes
    assert Cause.SATURATING_ACTIVATION not in causes
    assert causes[Cause.BAD_INITIALISATION].layer in ("0", "2")
    assert "times as large as those that the layer draws itself" in (
        causes[Cause.BAD_INITIALISATION].text
    )
    assert watched(tanh_net(1.0), lr=0.1).healthy


def test_large_weights_that_learn_are_left_alone():
    report = watched(tanh_net(6.0, (0,)), lr=0.1, updates=200)
    assert report.healthy


@pytest.mark.parametrize(("factor", "named"), [(60.0, True), (1.0, False)])
def test_a_game_shows_it_too(factor, named):
    """Two optimizers with losses of their own: what is learned cannot be told by either."""
    torch.manual_seed(0)
    made = tanh_net(factor, (0, 2))
    judge = net(3, 16, 1)
    both = [torch.optim.Adam(made.parameters(), lr=1e-3), torch.optim.Adam(judge.parameters())]
    with opened({"made": made, "judge": judge}, both) as w:
        for _ in range(110):
            fake = made(torch.randn(16, 8))
            both[1].zero_grad()
            told = judge(torch.randn(16, 3)), judge(fake.detach())
            (nn.functional.softplus(-told[0]) + nn.functional.softplus(told[1])).mean().backward()
            both[1].step()
            both[0].zero_grad()
            nn.functional.softplus(-judge(fake)).mean().backward()
            both[0].step()
    causes = {one.what for one in w.report().findings}
    assert (Cause.BAD_INITIALISATION in causes) is named
