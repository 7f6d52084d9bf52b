"""The critical rate: exact on quadratics, and nothing is changed by measuring it."""

from __future__ import annotations

import copy
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from etude.errors import BadTypeError, BadValueError
from etude.measure.critical_rate import PASSES, Rise, critical_rate
from etude.measure.lanczos import spectrum
from etude.measure.sharpness import sharpness
from etude.optimizers.classes.hessian import Hessian
from etude.training.run import Run
from tests.measure.common import bowl
from tests.measure.common import flat as recipe_of

curvatures = st.lists(st.floats(0.01, 50), min_size=1, max_size=6)
places = st.floats(-3, 3).filter(lambda w: abs(w) > 1e-3)


class Quadratic(nn.Module):
    """Half the sum of curvature × number², in double precision."""

    def __init__(self, curves, start):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(start, dtype=torch.float64))
        self.curves = torch.tensor(curves, dtype=torch.float64)

    def forward(self):
        return (self.curves * self.w.square()).sum() / 2


def stepped(model, optimizer):
    """Do one step on the model's own loss; return the weights before it."""
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.zero_grad()
    model().backward()
    optimizer.step()
    return before


@st.composite
def quadratics(draw):
    curves = draw(curvatures)
    start = draw(st.lists(places, min_size=len(curves), max_size=len(curves)))
    return curves, start


@given(quadratics(), st.floats(-4, 2))
@settings(max_examples=25)
def test_along_the_gradient_it_is_the_rayleigh_quotient_of_a_quadratic(given_, power):
    curves, start = given_
    curve, w = np.array(curves), np.array(start)
    gradient = curve * w
    quotient = gradient @ (curve * gradient) / (gradient @ gradient)
    rate = 10.0**power / quotient
    model = Quadratic(curves, start)
    before = stepped(model, torch.optim.SGD(model.parameters(), lr=rate))
    found = critical_rate(model, model, [model.w], before, passes=9)
    assert found.sharpness(rate) == pytest.approx(quotient, rel=1e-3)
    assert found.over_critical == pytest.approx(rate * quotient / 2, rel=1e-3)
    assert found.low <= found.multiple <= found.high


@given(quadratics(), st.sampled_from(["momentum", "adam", "decay"]), st.integers(1, 5))
@settings(max_examples=25)
def test_the_optimizers_own_direction_counts(given_, kind, updates):
    curves, start = given_
    model = Quadratic(curves, start)
    optimizer = {
        "momentum": lambda p: torch.optim.SGD(p, lr=0.01 / max(curves), momentum=0.9),
        "adam": lambda p: torch.optim.Adam(p, lr=0.003),
        "decay": lambda p: torch.optim.AdamW(p, lr=0.001, weight_decay=1.0),
    }[kind](model.parameters())
    for _ in range(updates):
        before = stepped(model, optimizer)
    curve, w = np.array(curves), before[0].numpy()
    d = model.w.detach().numpy() - w
    downhill, bend = -(curve * w) @ d, d @ (curve * d)
    assume(downhill > 1e-9 and bend > 1e-12)
    found = critical_rate(model, model, [model.w], before, passes=12)
    assert found.multiple == pytest.approx(2 * downhill / bend, rel=1e-3)


@given(st.floats(1e-6, 1e6), st.floats(1e-3, 1e3), st.floats(-3, 3), st.floats(0, 1))
@settings(max_examples=100)
def test_a_rise_near_the_guess_is_found_in_six_passes(root, scale, power, cubic):
    def change(s):
        return scale * (s / root) * (s / root - 1) * (1 + cubic * s / root)

    search = Rise(root * 2.0**power, 0.0)
    while not search.done and len(search.points) < PASSES - 1:
        search.add(search.next, change(search.next))
    assert search.multiple == pytest.approx(root, rel=0.25)


def test_a_loss_without_curvature_has_no_critical_rate_and_an_ascent_has_one_of_zero():
    model = nn.Linear(1, 1, bias=False)
    before = [model.weight.detach() - 1]
    assert critical_rate(model, lambda: -model.weight.sum(), [model.weight], before).multiple == (
        math.inf
    )
    found = critical_rate(model, model.weight.sum, [model.weight], before)
    assert (found.multiple, found.low, found.over_critical) == (0, 0, math.inf)
    assert found.high < 0.1
    assert found.passes == PASSES


def test_a_loss_that_is_not_finite_has_risen():
    model = nn.Linear(1, 1, bias=False)
    before = [model.weight.detach().clone() - 1]

    def loss():
        far = float(model.weight - before[0])
        return torch.tensor(math.inf if far > 2.5 else -far)

    found = critical_rate(model, loss, [model.weight], before, passes=8)
    assert found.low <= 2.5 <= found.high
    assert found.multiple == pytest.approx(2.5, rel=0.3)


def test_it_approaches_lanczos_sharpness_where_one_curvature_dominates():
    """Gradient descent soon points along the largest eigenvector that it cannot descend."""
    task, recipe = bowl(1.0, 3.0, 20.0), recipe_of("sgd", 0.095, steps=60)
    run = Run(task, recipe)
    run.advance()
    x = torch.zeros(16, 1)
    before = [p.detach().clone() for p in run.model.parameters()]
    run.optimizer.zero_grad()
    run.model(x).mean().backward()
    run.optimizer.step()
    found = critical_rate(run.model, lambda: run.model(x).mean(), run.parameters, before)
    assert found.sharpness(0.095) <= sharpness(run).value * 1.001
    assert found.sharpness(0.095) == pytest.approx(20.0, rel=0.01)


def test_of_a_network_it_is_the_rayleigh_quotient_for_a_short_step():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x, y = torch.randn(32, 4).double(), torch.randint(0, 3, (32,))
    parameters = list(model.parameters())
    hessian = Hessian(cross_entropy(model(x), y), parameters)
    g = hessian.gradient
    top = spectrum(hessian.times, torch.ones_like(g), iterations=60, tolerance=1e-6).highest
    quotient = float(g @ hessian.times(g) / (g @ g))
    before = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for p, part in zip(
            parameters, torch.split(g, [p.numel() for p in parameters]), strict=True
        ):
            p.sub_(1e-3 * part.view_as(p))
    found = critical_rate(model, lambda: cross_entropy(model(x), y), parameters, before)
    # The loss is no parabola as far out as the critical rate, so that the two agree roughly.
    assert found.sharpness(1e-3) == pytest.approx(quotient, rel=0.5)
    assert found.sharpness(1e-3) <= top


class Restless(nn.Module):
    """Everything that a forward pass may change: buffers, attributes, random numbers, modes."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)
        )
        self.calls, self.carried = 0, torch.zeros(3)

    def forward(self, x):
        self.calls += 1
        self.seen = random.random() + np.random.rand()  # noqa: NPY002
        self.body[1].eval()
        found = self.body(x) + self.carried
        self.carried = found.detach().mean(0)
        return found


def test_nothing_changes_not_even_by_an_error():
    torch.manual_seed(0)
    model = Restless()
    x, y = torch.randn(16, 4), torch.randint(0, 3, (16,))
    before = [p.detach() + 0.1 for p in model.parameters()]
    gradient = torch.autograd.grad(cross_entropy(model(x), y), [*model.parameters()])
    for p, g in zip(model.parameters(), gradient, strict=True):
        p.grad = g
    model.train()

    def state():
        tensors = {**model.state_dict(), "rng": torch.get_rng_state(), "carried": model.carried}
        tensors |= {f"grad {n}": p.grad for n, p in model.named_parameters()}
        modes = [m.training for m in model.modules()]
        return copy.deepcopy(tensors), modes, model.calls, random.getstate(), np.random.get_state()  # noqa: NPY002

    def same(one, other):
        return (
            all(torch.equal(one[0][name], value) for name, value in other[0].items())
            and one[1:4] == other[1:4]
            and np.array_equal(one[4][1], other[4][1])
        )

    was = state()
    values = []

    def loss():
        values.append(float(cross_entropy(model(x), y)))
        return values[-1]

    found = critical_rate(model, loss, [*model.parameters()], before)
    assert same(was, state())
    assert len(values) == found.passes <= PASSES
    critical_rate(model, loss, [*model.parameters()], before)
    assert values[: found.passes] == values[found.passes :]  # the same random numbers in each

    def fail():
        loss()
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        critical_rate(model, fail, [*model.parameters()], before)
    assert same(was, state())


@pytest.mark.parametrize(
    ("loss", "options", "error", "message"),
    [
        (lambda: torch.zeros(2), {}, BadTypeError, r"shape \(2,\).*return one real number"),
        (lambda: None, {}, BadTypeError, "the loss is None: return a tensor"),
        (lambda: 0.0, {"passes": 2}, BadValueError, "passes=2 is out of bounds"),
        (lambda: 0.0, {"guess": 0.0}, BadValueError, "guess=0.0 is out of bounds"),
    ],
)
def test_bad_input_is_refused(loss, options, error, message):
    model = nn.Linear(1, 1)
    before = [p.detach() - 1 for p in model.parameters()]
    with pytest.raises(error, match=message):
        critical_rate(model, loss, [*model.parameters()], before, **options)


def test_a_step_that_changed_nothing_has_no_direction():
    model = nn.Linear(1, 1)
    before = [p.detach().clone() for p in model.parameters()]
    found = critical_rate(model, lambda: 0.0, [*model.parameters()], before)
    assert math.isnan(found.multiple)
    assert math.isnan(found.over_critical)
    assert math.isnan(found.sharpness(0.1))


def test_weights_cast_under_autocast_are_those_of_each_pass():
    """Autocast keeps the cast weights of the pass before, for as long as its block lasts."""
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    x = torch.randn(8, 4)
    before = [p.detach() + 1 for p in model.parameters()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(x)
        found = critical_rate(
            model, lambda: model(x).square().mean(), [*model.parameters()], before
        )
    assert 0 < found.multiple < math.inf
