"""One step of back-propagation: the numbers are those of the formulas, and nothing changes."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import etude
from etude.errors import BadValueError, TaskError
from etude.measure.backprop import Backprop, backprop
from etude.tasks.sources.data import Cursor

SGD = etude.Recipe(optimizer="sgd", lr=0.1, steps=50, batch_size=16)


def data(count: int = 80) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(count, 5, generator=g)
    return x, torch.stack([x[:, 0] * x[:, 1], x[:, 2].sin()], 1)


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.Sigmoid(), nn.Linear(6, 2))


def drawn(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return mlp()


def task(network: nn.Module) -> etude.Task:
    return etude.Task(network, data(), loss=F.mse_loss)


def first_batch(of: etude.Task) -> tuple[Tensor, Tensor]:
    batch: tuple[Tensor, Tensor] = next(of.train.stream(16, 0, Cursor()))
    return batch


def close(a: float | None, b: Tensor | float) -> bool:
    assert a is not None
    return math.isclose(a, float(b), rel_tol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_the_delta_rule_by_hand(seed):
    """W₁ tanh W₂ σ W₃ and squares: every gradient and update from the formulas, in float64."""
    net = drawn(seed)
    of = task(net)
    found = backprop(of, SGD)
    x, y = (t.double() for t in first_batch(of))
    (w1, b1), (w2, b2), (w3, b3) = (
        (net[i].weight.detach().double(), net[i].bias.detach().double()) for i in (0, 2, 4)
    )
    a1 = x @ w1.T + b1
    h1 = a1.tanh()
    a2 = h1 @ w2.T + b2
    h2 = 1 / (1 + (-a2).exp())
    out = h2 @ w3.T + b3
    d_out = 2 * (out - y) / out.numel()
    d_h2 = d_out @ w3
    d_a2 = d_h2 * h2 * (1 - h2)
    d_h1 = d_a2 @ w2
    d_a1 = d_h1 * (1 - h1**2)
    d_x = d_a1 @ w1
    assert close(found.loss, ((out - y) ** 2).mean())
    values, deltas = (x, a1, h1, a2, h2, out), (d_x, d_a1, d_h1, d_a2, d_h2, d_out)
    for row, value, delta in zip(found.layers, values, deltas, strict=True):
        assert row.shape == tuple(value.shape)
        assert math.isclose(row.mean, float(value.mean()), rel_tol=1e-4, abs_tol=1e-7)
        assert close(row.deviation, value.std(correction=0))
        assert close(row.gradient, delta.norm())
    for row, above, own in zip(found.layers[1:], deltas[:-1], deltas[1:], strict=True):
        assert close(row.factor, above.norm() / own.norm())
    gradients = (d_a1.T @ x, d_a1.sum(0), d_a2.T @ h1, d_a2.sum(0), d_out.T @ h2, d_out.sum(0))
    for update, weight, gradient in zip(
        found.parameters, (w1, b1, w2, b2, w3, b3), gradients, strict=True
    ):
        assert close(update.gradient, gradient.norm())
        assert math.isclose(update.update, 0.1 * float(gradient.norm()), rel_tol=1e-4)
        assert close(update.weight, weight.norm())
        assert update.ratio == update.update / update.weight
    slope = -0.1 * sum(float(g.square().sum()) for g in gradients)
    assert math.isclose(found.predicted, slope, rel_tol=1e-4)


def test_the_loss_after_is_that_of_the_new_weights_on_the_same_batch():
    net = drawn()
    of = task(net)
    x, y = first_batch(of)
    found = backprop(of, SGD)
    twin = copy.deepcopy(net)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    F.mse_loss(twin(x), y).backward()
    optimizer.step()
    assert found.loss_after == F.mse_loss(twin(x), y).item()
    assert found.loss_after < found.loss


NETWORKS = {
    "mlp": lambda: drawn(),
    "deep": lambda: nn.Sequential(*[m for _ in range(30) for m in (nn.Linear(5, 5), nn.Tanh())],
                                  nn.Linear(5, 2)),
    "residual": lambda: Residual(),
    "lstm": lambda: Recurrent(),
    "in place": lambda: nn.Sequential(nn.Linear(5, 8), nn.ReLU(inplace=True), nn.Linear(8, 2)),
    "normalised": lambda: nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.2),
                                        nn.Linear(8, 2)),
}  # fmt: skip


class Residual(nn.Module):
    """A linear layer, x + f(x), and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 6), nn.Linear(6, 2)
        self.block = Block()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.block(self.stem(x)))
        return y


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 6)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.down(self.act(self.up(x)))
        return y


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(1, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.rnn(x[..., None])[0][:, -1])
        return y


@pytest.mark.parametrize("name", NETWORKS)
def test_the_product_of_the_factors_is_the_ratio_of_the_ends(name):
    found = backprop(task(NETWORKS[name]()), SGD)
    assert found.product is not None
    assert found.ends is not None
    first, last = found.ends
    assert first.name == "input"
    assert first.gradient is not None
    assert last.gradient is not None
    assert math.isclose(found.product, first.gradient / last.gradient, rel_tol=1e-13)
    assert len(found.chain) == sum(row.trunk for row in found.layers) - 1


def test_what_is_in_a_branch_has_no_factor():
    rows = {row.name: row for row in backprop(task(Residual()), SGD).layers}
    assert list(rows) == ["input", "stem", "block.up", "block.act", "block.down", "block", "head"]
    trunk = [name for name, row in rows.items() if row.trunk]
    assert trunk == ["input", "stem", "block", "head"]
    assert rows["block"].factor == rows["stem"].gradient / rows["block"].gradient


@given(
    widths=st.lists(st.integers(2, 6), min_size=1, max_size=5),
    scale=st.floats(0.1, 3.0),
    seed=st.integers(0, 100),
)
@settings(max_examples=15, deadline=None)
def test_the_gradients_are_those_of_autograd(widths, scale, seed):
    torch.manual_seed(seed)
    sizes = [5, *widths, 2]
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.Tanh()]
    net = nn.Sequential(*layers)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(scale)
    of = task(net)
    found = backprop(of, SGD)
    x, y = first_batch(of)
    values = [x.requires_grad_()]
    for layer in net:
        values.append(layer(values[-1]))
    gradients = torch.autograd.grad(F.mse_loss(values[-1], y), values)
    for row, gradient in zip(found.layers, gradients, strict=True):
        assert close(row.gradient, gradient.double().norm())


@pytest.mark.parametrize("name", ["mlp", "normalised", "lstm"])
def test_nothing_of_the_users_changes(name):
    net = NETWORKS[name]()
    net.eval()
    of = task(net)
    before = copy.deepcopy(net.state_dict())
    state = torch.get_rng_state()
    backprop(of, SGD, after=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert not net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert not any(
        m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in net.modules()
    )


def test_a_later_step_follows_the_earlier_ones_to_the_bit():
    of, constant = task(drawn()), SGD.replace(schedule="constant()")
    record = etude.train(of, constant.replace(steps=6))
    steps = [backprop(of, SGD, after=n) for n in range(6)]
    assert [step.loss for step in steps] == list(record.series["loss"])
    assert [step.step for step in steps] == list(range(6))


@pytest.mark.parametrize("optimizer", ["adamw", "lbfgs", "muon", "sgd"])
def test_every_kind_of_optimizer_moves(optimizer):
    found = backprop(task(drawn()), SGD.replace(optimizer=optimizer, lr=0.01))
    assert all(row.update > 0 and row.gradient for row in found.parameters)


def test_frozen_parts_have_no_gradient_and_no_update():
    net = drawn()
    net[0].requires_grad_(False)
    found = backprop(task(net), SGD)
    assert [row.gradient is None for row in found.parameters] == [True, True] + [False] * 4
    assert [row.update == 0 for row in found.parameters] == [True, True] + [False] * 4
    assert found.layers[0].name == "input"


def test_whole_numbers_begin_at_the_first_numbers_made_of_them():
    net = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 3))
    x = torch.randint(9, (60, 3), generator=torch.Generator().manual_seed(0))
    found = backprop(etude.Task(net, (x, x[:, 0] % 3), loss=F.cross_entropy), SGD)
    assert [row.name for row in found.layers] == ["0", "1", "2"]
    assert found.ends is not None
    assert found.ends[0].kind == "Embedding"
    assert found.product == found.layers[0].gradient / found.layers[2].gradient


def test_a_step_that_calls_parts_of_the_model_has_no_chain():
    def step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.mse_loss(model[4](model[:4](batch[0])), batch[1])

    found = backprop(etude.Task(mlp, data(), step=step), SGD)
    assert found.product is None
    assert "not called" in found.unchained
    assert len(found.layers) == 5


def test_bad_input_is_told():
    with pytest.raises(BadValueError, match="after=-1: give a whole number"):
        backprop(task(drawn()), after=-1)

    def turns(model, batch):
        yield "0", F.mse_loss(model(batch[0]), batch[1])

    with pytest.raises(TaskError, match="take turns"):
        backprop(etude.Task(mlp, data(), step=turns), SGD)
    with pytest.raises(TaskError, match="diverged before update 5"):
        backprop(task(drawn()), SGD.replace(lr=1e20), after=5)


def test_the_plain_values_are_json():
    import json

    found = backprop(task(Residual()), SGD)
    assert isinstance(found, Backprop)
    read = json.loads(json.dumps(found.plain(), allow_nan=False))
    assert read["product"] == found.product
    assert [row["name"] for row in read["layers"]] == [row.name for row in found.layers]


@pytest.mark.parametrize("size", [1.0, 300.0])
def test_in_float16_the_gradients_are_those_of_the_loss_that_is_not_scaled(size):
    x, _ = data()
    of = etude.Task(drawn(), (x, size * torch.ones(len(x), 2)), loss=F.mse_loss)
    recipe = etude.Recipe(optimizer="sgd", lr=1e-4, steps=4, batch_size="all")
    half, full = (backprop(of, recipe.replace(precision=kind)) for kind in ("float16", "float32"))
    for mine, other in zip(half.parameters, full.parameters, strict=True):
        assert mine.gradient == pytest.approx(other.gradient, rel=0.02)
        assert mine.update == pytest.approx(other.update, rel=0.02)
    for mine, other in zip(half.layers, full.layers, strict=True):
        assert mine.name == other.name
        assert mine.gradient == pytest.approx(other.gradient, rel=0.02)
        assert (mine.factor is None) == (other.factor is None)
    assert half.predicted == pytest.approx(full.predicted, rel=0.02)
