"""What a rewrite changes, and what it leaves."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from etude import Task
from etude.diagnosis.rewrites import (
    Rewrite,
    add_residuals,
    drop_output_function,
    fresh_weights,
    insert_normalisation,
    scale_outputs,
    standardise_inputs,
    swap_activations,
    train_frozen,
)
from etude.diagnosis.rewrites.residual import Residual
from tests.helpers import data, mlp, task


class Gated(nn.Module):
    """A layer whose sigmoid is a gate, and a tanh that is not; the functional way."""

    def __init__(self) -> None:
        super().__init__()
        self.value, self.gate, self.last = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 2)
        self.open, self.squash = nn.Sigmoid(), nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.value(x) * self.open(self.gate(x))
        return self.last(self.squash(mixed))


class Attention(nn.Module):
    """Linear layers that feed a softmax, and one that feeds an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(3, 8), nn.Linear(3, 8), nn.Linear(3, 8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(len(x), 2, 3)
        weights = torch.softmax(self.q(x) @ self.k(x).transpose(1, 2), -1)
        return self.down(torch.relu(self.up(weights @ self.v(x)))).mean(1)


def assert_untouched(model: nn.Module, before: dict[str, Tensor]) -> None:
    """The model has the weights and buffers that it had."""
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in after)


def all_rewrites(of: Task, model: nn.Module) -> list[Rewrite]:
    """Every rewrite of a model."""
    return [
        swap_activations(of, model),
        insert_normalisation(of, model),
        add_residuals(of, model),
        drop_output_function(of, model),
        fresh_weights(model),
        standardise_inputs(of),
        scale_outputs(of),
    ]


@pytest.mark.parametrize("model", [mlp(6, 8, 8, 2), Gated(), Attention()], ids=lambda m: type(m))
def test_the_model_and_the_random_state_stay_as_they_were(model: nn.Module) -> None:
    of = Task(model, data(), loss=cross_entropy)
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    rewrites = all_rewrites(of, model)
    assert torch.equal(torch.get_rng_state(), state)
    changed = [rewrite.apply(model) for rewrite in rewrites if rewrite]
    assert_untouched(model, before)
    assert [module.training for module in model.modules()] == modes
    assert all(one is not model for one in changed)


@pytest.mark.parametrize("model", [mlp(6, 8, 8, 2), Gated(), Attention()], ids=lambda m: type(m))
def test_what_is_rewritten_takes_the_same_batches(model: nn.Module) -> None:
    of = Task(model, data(), loss=cross_entropy)
    for rewrite in all_rewrites(of, model):
        changed = rewrite.task(of).build()
        loss, _, _ = of.forward(changed, data())
        loss.backward()
        assert bool(rewrite) != bool(rewrite.reason)
        assert all(p.grad is not None for p in changed.parameters())


def test_a_gate_and_the_output_keep_their_range() -> None:
    model = Gated()
    found = swap_activations(Task(model, data(), loss=cross_entropy), model)
    assert [change.layer for change in found.changes] == ["squash"]
    closed = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2), nn.Sigmoid())
    found = swap_activations(Task(closed, data(), loss=cross_entropy), closed)
    assert [change.layer for change in found.changes] == ["1"]


def test_the_gates_of_a_recurrent_layer_stay() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(3, 5, batch_first=True), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x.reshape(len(x), 2, 3))[0][:, -1])

    found = swap_activations(Task(Reader, data(), loss=cross_entropy), Reader())
    assert not found
    assert "no module" in found.reason


def test_an_activation_in_use_at_two_places_is_swapped_in_both() -> None:
    shared = nn.Tanh()
    model = nn.Sequential(nn.Linear(6, 4), shared, nn.Linear(4, 4), shared, nn.Linear(4, 2))
    changed = swap_activations(task(model), model).apply(model)
    assert [type(changed[i]) for i in (1, 3)] == [nn.ReLU, nn.ReLU]


def test_attention_is_not_normalised_but_its_feed_forward_part_is() -> None:
    model = Attention()
    found = insert_normalisation(Task(model, data(), loss=cross_entropy), model)
    assert [(c.layer, c.after) for c in found.changes] == [("up", "Linear + LayerNorm(16)")]


def test_what_is_normalised_is_not_normalised_again() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    assert not insert_normalisation(task(model), model)
    bare = mlp(6, 8, 8, 2)
    once = insert_normalisation(task(bare), bare)
    assert len(once.changes) == 2
    assert not insert_normalisation(once.task(task(bare)), once.apply(bare))


def test_convolutions_get_batch_normalisation() -> None:
    net = nn.Sequential(
        nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)
    )
    found = insert_normalisation(task(net), net)
    assert [c.after for c in found.changes] == ["Conv1d + BatchNorm1d(4)"]


def test_a_residual_block_of_zeros_is_the_identity() -> None:
    layer = nn.Linear(5, 5)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    x = torch.randn(3, 5)
    assert torch.equal(Residual(layer)(x), x)


def test_only_blocks_that_keep_their_shape_get_a_residual_connection() -> None:
    model = mlp(6, 8, 8, 8, 2)
    changed = add_residuals(task(model), model).apply(model)
    kinds = [type(module).__name__ for module in changed]
    assert kinds == ["Linear", "Tanh", "Residual", "Residual", "Linear"]
    assert not add_residuals(task(changed), changed)


def test_blocks_inside_blocks_are_rewritten_in_one_go() -> None:
    inner = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    model = nn.Sequential(inner, nn.ReLU(), nn.Linear(6, 2))
    changed = add_residuals(task(model), model).apply(model)
    names = [type(module).__name__ for module in changed.modules()]
    assert names.count("Residual") == 3
    assert changed(torch.randn(4, 6)).shape == (4, 2)


@given(shift=st.floats(-1e3, 1e3), scale=st.floats(1e-3, 1e3))
def test_standardised_inputs_do_not_depend_on_their_units(shift: float, scale: float) -> None:
    x, y = data(64)
    probe = nn.Linear(6, 2)
    plain = Task(probe, (x, y), valid=(x, y), loss=cross_entropy)
    other = Task(probe, (x.double() * scale + shift, y), valid=(x, y), loss=cross_entropy)
    a = standardise_inputs(plain).apply(probe)(x)
    b = standardise_inputs(other).apply(probe)
    b.mean, b.std = b.mean.double(), b.std.double()
    z = (x.double() * scale + shift - b.mean) / b.std
    torch.testing.assert_close(probe(z.float()), a, atol=1e-4, rtol=1e-4)


def test_a_constant_feature_is_not_divided_by_zero() -> None:
    x, y = data(64)
    x[:, 2] = 5.0
    probe = nn.Linear(6, 2)
    task = Task(probe, (x, y), valid=(x, y), loss=cross_entropy)
    out = standardise_inputs(task).apply(probe)(x)
    others = (x - x.mean(0)) / x.std(0)
    others[:, 2] = 0.0
    torch.testing.assert_close(out, probe(others), atol=1e-4, rtol=1e-4)


def test_scaled_outputs_have_the_mean_of_the_targets_where_the_network_says_zero() -> None:
    x = torch.randn(200, 3)
    y = torch.stack([1000 + 300 * x[:, 0], -5 + 0.1 * x[:, 1]], 1)
    net = nn.Linear(3, 2)
    nn.init.zeros_(net.weight)
    nn.init.zeros_(net.bias)
    of = Task(net, (x, y), valid=(x, y), loss=mse_loss)
    out = scale_outputs(of).apply(net)(x)
    torch.testing.assert_close(out[0], y[: (200 // 64) * 64].mean(0), rtol=0.2, atol=60.0)


def test_labels_are_not_scaled() -> None:
    assert not scale_outputs(task())


def test_fresh_weights_are_drawn_by_the_layers_themselves() -> None:
    model = mlp()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    torch.manual_seed(5)
    changed = fresh_weights(model).apply(model)
    torch.manual_seed(5)
    expected = mlp()
    assert_untouched(changed, expected.state_dict())


@pytest.mark.parametrize("last", [nn.Softmax(1), nn.LogSoftmax(1), nn.Sigmoid(), nn.ReLU()])
def test_the_function_of_the_output_is_removed(last: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.Sigmoid(), nn.Linear(4, 2), last)
    found = drop_output_function(task(model), model)
    assert [change.layer for change in found.changes] == ["3"]
    x, _ = data()
    assert torch.equal(found.apply(model)(x), model[:3](x))


def test_alike_changes_are_told_on_one_line() -> None:
    model = mlp(6, 8, 8, 2)
    assert str(swap_activations(task(model), model)) == "1, 3: Tanh() -> ReLU()"
    assert str(add_residuals(task(mlp()), mlp())).startswith("residual connections: no block")


@given(st.lists(st.booleans(), min_size=3, max_size=3))
def test_what_is_frozen_is_trained_and_the_original_is_not(frozen: list[bool]) -> None:
    net = nn.Sequential(*(nn.Linear(2, 2).requires_grad_(not one) for one in frozen))
    rewrite = train_frozen(net)
    assert [change.layer for change in rewrite.changes] == [
        str(place) for place, one in enumerate(frozen) if one
    ]
    assert bool(rewrite) == any(frozen)
    assert all(p.requires_grad for p in rewrite.apply(net).parameters())
    assert [not layer.weight.requires_grad for layer in net] == frozen


def test_whole_numbers_stay_frozen() -> None:
    net = nn.Linear(2, 2)
    net.register_parameter("table", nn.Parameter(torch.tensor([1, 2]), requires_grad=False))
    assert not train_frozen(net)


@pytest.mark.parametrize("first", ["recurrent", "linear", "convolution"])
def test_the_features_of_a_series_are_standardised_whatever_the_time(first: str) -> None:
    axis = 1 if first == "convolution" else 2
    scales = torch.tensor([1.0, 1000.0]).view([-1 if one == axis else 1 for one in range(3)])
    x = torch.randn(64, *([2, 7] if axis == 1 else [7, 2])) * scales + 5 * scales
    kinds = {
        "recurrent": nn.GRU(2, 3, batch_first=True),
        "linear": nn.Linear(2, 3),
        "convolution": nn.Conv1d(2, 3, 3),
    }
    net = nn.Sequential(kinds[first])
    of = Task(net, (x, torch.zeros(64, 1)), step=None, loss=lambda output, target: output[0].sum())
    changed = standardise_inputs(of, net).apply(net)
    standard = (x - changed.mean) / changed.std
    over = [0, 3 - axis]
    assert changed.mean.numel() == 2
    torch.testing.assert_close(standard.mean(over), torch.zeros(2), atol=0.3, rtol=0)
    torch.testing.assert_close(standard.std(over), torch.ones(2), atol=0.3, rtol=0)


def test_scaled_residuals_keep_the_variance_at_any_depth() -> None:
    torch.manual_seed(0)
    x = torch.randn(256, 16)
    for depth in (9, 36):
        layers = [nn.Linear(16, 16, bias=False) for _ in range(depth)]
        for layer in layers:
            nn.init.orthogonal_(layer.weight)
        model = nn.Sequential(*layers, nn.Linear(16, 1))
        of = Task(model, (x, x[:, :1]), loss=mse_loss)
        scaled = add_residuals(of, model, scaled=True)
        assert f"times {depth**-0.5:.3g}" in str(scaled)
        out = scaled.apply(model)[:-1](x)
        plain = add_residuals(of, model).apply(model)[:-1](x)
        assert 1.2 < float(out.var() / x.var()) < 9.0
        assert float(plain.var()) > 3 * float(out.var())


def test_what_is_added_is_on_the_device_of_the_model() -> None:
    here, there = mlp(), mlp().to("meta")
    for rewrite in all_rewrites(task(), here):
        if rewrite and rewrite.name != "weights drawn anew":
            changed = rewrite.apply(there)
            assert all(t.is_meta for t in (*changed.parameters(), *changed.buffers())), rewrite
