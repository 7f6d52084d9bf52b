"""A slice's multiplier equals training the slice as a parameter of its own at that rate."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from etude.layerwise import apply, rates_of
from etude.optimizers import build
from etude.training.machine.precision import refusal

HIDDEN = 3
GATES = {"LSTM": ("input", "forget", "cell", "output"), "GRU": ("reset", "update", "new")}

OPTIMIZERS = {
    "sgd": {},
    "heavy ball": {"momentum": 0.9},
    "damped": {"momentum": 0.8, "dampening": 0.3, "weight_decay": 0.1},
    "nesterov": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    "averaged_momentum": {"momentum": 0.9, "weight_decay": 0.1},
    "adam": {"weight_decay": 0.1},
    "adam amsgrad": {"amsgrad": True},
    "adamw": {"weight_decay": 0.3},
    "rmsprop": {"momentum": 0.5, "centered": True, "weight_decay": 0.1},
    "adagrad": {"weight_decay": 0.1, "lr_decay": 0.1},
    "adadelta": {"weight_decay": 0.1},
    "adamax": {"weight_decay": 0.1},
    "nadam": {"weight_decay": 0.1, "decoupled_weight_decay": True},
    "radam": {"weight_decay": 0.1},
    "lion": {"weight_decay": 0.1},
}
ROWS = {"heavy ball": "sgd", "damped": "sgd", "nesterov": "sgd", "adam amsgrad": "adam"}


class Reader(nn.Module):
    """A recurrent network with a head."""

    def __init__(self, cell: str, **options: object) -> None:
        super().__init__()
        self.rnn = getattr(nn, cell)(2, HIDDEN, batch_first=True, **options)
        self.head = nn.Linear(self.rnn(torch.zeros(1, 1, 2))[0].shape[-1], 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


class Split:
    """The same network, with every gate of every tensor a parameter of its own."""

    def __init__(self, model: nn.Module, gates: tuple[str, ...]) -> None:
        self.model = model
        self.pieces: dict[str, list[nn.Parameter]] = {}
        self.gates: dict[int, str] = {}
        for name, value in model.named_parameters():
            sliced = name.startswith("rnn.") and "_hr_" not in name
            chunks = value.detach().clone().chunk(len(gates) if sliced else 1)
            self.pieces[name] = [nn.Parameter(chunk.clone()) for chunk in chunks]
            if sliced:
                for gate, piece in zip(gates, self.pieces[name], strict=True):
                    self.gates[id(piece)] = gate

    def parameters(self) -> list[nn.Parameter]:
        return [piece for pieces in self.pieces.values() for piece in pieces]

    def whole(self) -> dict[str, Tensor]:
        return {name: torch.cat(pieces) for name, pieces in self.pieces.items()}

    def __call__(self, x: Tensor) -> Tensor:
        return functional_call(self.model, self.whole(), (x,))

    def groups(self, multipliers: dict[str, float], lr: float) -> list[dict[str, object]]:
        return [
            {"params": [p], "lr": lr * multipliers.get(self.gates.get(id(p), ""), 1.0)}
            for p in self.parameters()
        ]


def batches(count: int, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(7)
    return [
        (
            torch.randn(4, 5, 2, generator=draw, dtype=dtype),
            torch.randn(4, 1, generator=draw, dtype=dtype),
        )
        for _ in range(count)
    ]


def make(cell: str = "LSTM", dtype: torch.dtype = torch.float64, **options: object) -> Reader:
    torch.manual_seed(3)
    return Reader(cell, **options).to(dtype)


def assert_same(model: nn.Module, split: Split, rtol: float = 1e-9, atol: float = 1e-12) -> None:
    for name, value in split.whole().items():
        own = model.get_parameter(name)
        torch.testing.assert_close(
            own, value, rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
        )


def train(net: nn.Module | Split, optimizer: torch.optim.Optimizer, data: list) -> None:
    for x, y in data:
        optimizer.zero_grad()
        (net(x) - y).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", OPTIMIZERS)
@settings(max_examples=5, deadline=None)
@given(
    multipliers=st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0, 7.0]), min_size=4, max_size=4),
)
def test_gates_equal_separate_parameters(kind: str, multipliers: list[float]) -> None:
    table = dict(zip(GATES["LSTM"], multipliers, strict=True))
    name = ROWS.get(kind, kind.split()[0])
    if name == "lion":
        pytest.importorskip("pytorch_optimizer")
    model, hyper = make(), OPTIMIZERS[kind]
    split = Split(make(), GATES["LSTM"])
    rules = {f"*[{gate}]": m for gate, m in table.items()}
    own = build(name, model, lr=0.05, lr_mult=rules, **hyper)
    reference = build(name, split.groups(table, 0.05), lr=0.05, **hyper)
    data = batches(6, torch.float64)
    train(model, own, data)
    train(split, reference, data)
    assert_same(model, split)


@pytest.mark.parametrize(
    ("cell", "options"),
    [
        ("GRU", {}),
        ("GRU", {"num_layers": 2, "bidirectional": True}),
        ("LSTM", {"num_layers": 2, "bidirectional": True}),
        ("LSTM", {"proj_size": 2}),
        ("LSTM", {"bias": False}),
    ],
)
def test_every_layer_direction_bias_and_projection(cell: str, options: dict) -> None:
    model, split = make(cell, **options), Split(make(cell, **options), GATES[cell])
    gate = GATES[cell][1]
    own = build("adamw", model, lr=0.05, lr_mult={f"rnn.*[{gate}]": 4.0})
    reference = build("adamw", split.groups({gate: 4.0}, 0.05), lr=0.05)
    data = batches(5, torch.float64)
    train(model, own, data)
    train(split, reference, data)
    assert_same(model, split)


@pytest.mark.parametrize("mode", [{"foreach": True}, {"foreach": False}, {"fused": True}])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_foreach_single_and_fused_steps(kind: type, mode: dict) -> None:
    model, split = make(), Split(make(), GATES["LSTM"])
    own = kind(model.parameters(), lr=0.05, weight_decay=0.1, **mode)
    apply(own, model, {"*[forget]": 0.2, "*[cell]": 3.0})
    reference = kind(split.groups({"forget": 0.2, "cell": 3.0}, 0.05), weight_decay=0.1)
    data = batches(6, torch.float64)
    train(model, own, data)
    train(split, reference, data)
    assert_same(model, split)


def test_clipping_and_accumulation() -> None:
    model, split = make(), Split(make(), GATES["LSTM"])
    own = build("sgd", model, lr=0.3, momentum=0.9, lr_mult={"*[forget]": 5.0})
    reference = build("sgd", split.groups({"forget": 5.0}, 0.3), lr=0.3, momentum=0.9)
    data = batches(12, torch.float64)
    clipped = 0
    for net, optimizer in ((model, own), (split, reference)):
        for index, (x, y) in enumerate(data):
            ((net(x) - y).square().mean() / 3).backward()
            if index % 3 == 2:
                norm = nn.utils.clip_grad_norm_(list(net.parameters()), 0.2)
                nn.utils.clip_grad_value_(list(net.parameters()), 0.05)
                clipped += int(norm > 0.2)
                optimizer.step()
                optimizer.zero_grad()
    assert clipped > 0
    assert_same(model, split)


def test_bfloat16_autocast_with_a_gradient_scaler() -> None:
    if reason := refusal(nn.LSTM(3, 4), "bfloat16"):
        pytest.skip(f"this processor computes no LSTM in bfloat16: {reason}")
    model = make(dtype=torch.float32)
    split = Split(make(dtype=torch.float32), GATES["LSTM"])
    own = build("adamw", model, lr=0.02, lr_mult={"*[forget]": 3.0})
    reference = build("adamw", split.groups({"forget": 3.0}, 0.02), lr=0.02)
    data = batches(8, torch.float32)
    skipped = []
    for net, optimizer in ((model, own), (split, reference)):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=2)
        for index, (x, y) in enumerate(data):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = (net(x).float() - y).square().mean()
            if index == 3:
                loss = loss * float("inf")  # the scaler skips this update
            scaler.scale(loss).backward()
            before = scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            skipped.append(scaler.get_scale() < before)
    assert sum(skipped) == 2
    assert_same(model, split, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@settings(max_examples=10, deadline=None)
@given(factor=st.floats(0.01, 100), seed=st.integers(0, 99))
def test_a_slice_is_right_to_the_rounding_of_its_weights(
    dtype: torch.dtype, factor: float, seed: int
) -> None:
    # Rounded twice at most, by the optimizer and by the rescaling: within an ulp and a half.
    torch.manual_seed(seed)
    model = nn.Linear(4, 6, bias=False).to(dtype)
    start = model.weight.detach().double()
    optimizer = build("sgd", model, lr=0.01, lr_mult={"weight[0:3]": factor})
    model.weight.grad = torch.randn(6, 4).to(dtype)
    change = 0.01 * model.weight.grad.double()
    optimizer.step()
    wanted = torch.cat([start[:3] - factor * change[:3], start[3:] - change[3:]])
    largest = torch.maximum(wanted.abs(), start.abs()) + max(factor, 1) * change.abs()
    ulp = torch.finfo(dtype).eps * largest
    assert ((model.weight.double() - wanted).abs() <= 1.5 * ulp).all()


def test_a_frozen_slice_keeps_its_bits_and_the_rest_trains() -> None:
    model = make(dtype=torch.float32)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = build("adamw", model, lr=0.1, lr_mult={"*[forget]": 0.0, "head": 0})
    train(model, optimizer, batches(5, torch.float32))
    for name, p in model.named_parameters():
        if name.startswith("head"):
            assert torch.equal(p, before[name])
            continue
        rows = slice(HIDDEN, 2 * HIDDEN)
        assert torch.equal(p[rows], before[name][rows])
        assert not torch.equal(p[:HIDDEN], before[name][:HIDDEN])


def test_one_gate_trains_while_all_else_is_frozen() -> None:
    model = make(dtype=torch.float32)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = build("adamw", model, lr=0.1, lr_mult={"*[forget]": 1.0, "*": 0.0})
    train(model, optimizer, batches(5, torch.float32))
    for name, p in model.named_parameters():
        same = (p == before[name]).flatten(1).all(1) if p.dim() > 1 else p == before[name]
        frozen = [i for i in range(len(same)) if same[i]]
        gate = set(range(HIDDEN, 2 * HIDDEN)) if name.startswith("rnn") else set()
        assert set(frozen) == set(range(len(same))) - gate


def test_a_torch_scheduler_moves_slices_and_groups_together() -> None:
    model, split = make(), Split(make(), GATES["LSTM"])
    own = build("adam", model, lr=0.05, lr_mult={"*[forget]": 3.0, "head": 0.5})
    groups = split.groups({"forget": 3.0}, 0.05)
    for group in groups[-2:]:
        group["lr"] = 0.025
    reference = build("adam", groups, lr=0.05)
    data = batches(8, torch.float64)
    for net, optimizer in ((model, own), (split, reference)):
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8)
        for batch in data:
            train(net, optimizer, [batch])
            scheduler.step()
    assert_same(model, split)


def test_state_keys_and_groups_hold_nothing_of_ours() -> None:
    plain_model, model = make(), make()
    plain = torch.optim.AdamW(plain_model.parameters(), lr=0.05)
    own = build("adamw", model, lr=0.05, lr_mult={"*[forget]": 3.0})
    data = batches(2, torch.float64)
    train(plain_model, plain, data)
    train(model, own, data)
    assert list(model.state_dict()) == list(plain_model.state_dict())
    first, second = plain.state_dict(), own.state_dict()
    assert first.keys() == second.keys()
    assert set(first["param_groups"][0]) == set(second["param_groups"][0])
    assert [set(v) for v in first["state"].values()] == [set(v) for v in second["state"].values()]


def test_state_dict_round_trip_goes_on_to_the_bit() -> None:
    data = batches(10, torch.float32)
    rules = {"*[forget]": 3.0, "head": 0.5, "*bias_hh*[cell]": 0.1}
    straight, paused, resumed = (make(dtype=torch.float32) for _ in range(3))
    train(straight, build("adamw", straight, lr=0.05, lr_mult=rules), data)
    first = build("adamw", paused, lr=0.05, lr_mult=rules)
    train(paused, first, data[:4])
    second = build("adamw", resumed, lr=0.9, lr_mult=rules)
    resumed.load_state_dict(paused.state_dict())
    second.load_state_dict(first.state_dict())
    train(resumed, second, data[4:])
    for one, other in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_model_that_is_cast_or_replaced_between_steps_stays_right() -> None:
    model = make(dtype=torch.float32)
    optimizer = build("sgd", model, lr=0.05, lr_mult={"*[forget]": 0.0})
    train(model, optimizer, batches(2, torch.float32))
    model.double()
    before = model.rnn.weight_hh_l0.detach().clone()
    train(model, optimizer, batches(2, torch.float64))
    rows = slice(HIDDEN, 2 * HIDDEN)
    assert torch.equal(model.rnn.weight_hh_l0[rows], before[rows])
    assert not torch.equal(model.rnn.weight_hh_l0, before)


def test_parameters_without_a_gradient_stay() -> None:
    model = make()
    optimizer = build("adamw", model, lr=0.05, lr_mult={"*[forget]": 3.0})
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))


def test_scheduled_multipliers_equal_rates_set_by_hand() -> None:
    model, split = make(), Split(make(), GATES["LSTM"])
    rules = {"*[forget]": "constant(0, 3) >> constant(2)", "head": "linear(6)"}
    own = build("sgd", model, lr=0.1, momentum=0.9, lr_mult=rules)
    reference = build("sgd", split.groups({}, 0.1), lr=0.1, momentum=0.9)
    rates = rates_of(own)
    assert rates is not None
    rates.bind(6)
    for step, batch in enumerate(batches(6, torch.float64)):
        rates.set(0.1, step)
        train(model, own, [batch])
        for group in reference.param_groups:
            gate = split.gates.get(id(group["params"][0]))
            group["lr"] = 0.1 * ((0 if step < 3 else 2) if gate == "forget" else 1)
        for group in reference.param_groups[-2:]:
            group["lr"] = 0.1 * (1 - step / 6)
        train(split, reference, [batch])
        assert_same(model, split)
