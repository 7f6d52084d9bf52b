"""Roles and order come from the flow of a forward pass, and from names where there is none."""

from __future__ import annotations

import copy
import random
import warnings
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from etude import Recipe, Task, tasks
from etude.errors import BadValueError, TaskError
from etude.layerwise import apply, parts_of, plan, trace
from etude.optimizers import build
from etude.training.run import Run


class Tied(nn.Module):
    """A language model whose head is the embedding, as a module or as a function."""

    def __init__(self, width: int = 64, *, module: bool = True, bias: bool = False) -> None:
        super().__init__()
        self.emb, self.mid = nn.Embedding(20, width), nn.Linear(width, width)
        if module:
            self.head = nn.Linear(width, 20, bias=bias)
            self.head.weight = self.emb.weight
        self.module = module

    def forward(self, i: Tensor) -> Tensor:
        h = self.mid(self.emb(i))
        y: Tensor = self.head(h) if self.module else F.linear(h, self.emb.weight)
        return y


class Chain(nn.Module):
    """Layers used in the order of their numbers, assigned in another."""

    def __init__(self, count: int, seed: int) -> None:
        super().__init__()
        order = list(range(count))
        random.Random(seed).shuffle(order)
        for place in order:
            setattr(self, f"{'abcdefgh'[place]}x", nn.Linear(5 if place else 3, 5))
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        for place in range(self.count):
            x = torch.tanh(getattr(self, f"{'abcdefgh'[place]}x")(x))
        return x


class Net(nn.Module):
    """Modules, and how they are used."""

    def __init__(self, forward: Callable[..., object], **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self.use = forward

    def forward(self, *x: Tensor) -> object:
        return self.use(self, *x)


def residual(net: Net, x: Tensor) -> Tensor:
    h = net.a(x)
    h = h + net.b(h)
    return h + net.c(h)


def weight_normed() -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2))
    nn.utils.parametrizations.weight_norm(net[0])
    nn.utils.parametrizations.spectral_norm(net[1])
    nn.utils.parametrizations.orthogonal(net[2])
    return net


X = torch.zeros(2, 4)
L = nn.Linear
MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor, set[str], set[str]]] = {
    "two heads": (
        lambda: Net(
            lambda n, x: {"p": n.one(h := n.body(x)), "q": n.two(h)},
            one=L(8, 2), body=L(4, 8), two=nn.Sequential(L(8, 8), nn.ReLU(), L(8, 1)),
        ), X, {"body"}, {"one", "two.2"},
    ),
    "unused modules": (
        lambda: Net(lambda n, x: n.y(n.x(x)), x=L(4, 8), y=L(8, 2), z=L(8, 8), decoder=L(8, 4)),
        X, {"x"}, {"y"},
    ),
    "residual": (lambda: Net(residual, a=L(4, 8), b=L(8, 8), c=L(8, 8)), X, {"a"}, {"c"}),
    "wide and deep": (
        lambda: Net(lambda n, x: n.deep(x) + n.wide(x), wide=L(4, 1),
                    deep=nn.Sequential(L(4, 8), nn.ReLU(), L(8, 1))),
        X, {"wide", "deep.0"}, {"wide", "deep.2"},
    ),
    "a kernel at the end": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)),
        torch.zeros(1, 1, 5, 5), {"0"}, {"2"},
    ),
    "shared": (
        lambda: nn.Sequential(L(4, 8), w := L(8, 8), nn.ReLU(), w, L(8, 2)), X, {"0"}, {"4"}
    ),
    "parametrised": (
        weight_normed, X, {"0.parametrizations.weight"}, {"2.parametrizations.weight"}
    ),
    "a table by hand": (
        lambda: Net(lambda n, x: n.up(n.table.weight[x.long()[:, 0]]), up=L(3, 2),
                    table=nn.Embedding(5, 3)),
        X, {"table"}, {"up"},
    ),
    "positions": (
        lambda: Net(lambda n, x: n.out(n.mid(n.into(x) + n.pos(torch.arange(4)))), out=L(8, 2),
                    mid=L(8, 8), into=L(4, 8), pos=nn.Embedding(4, 8)),
        torch.zeros(4, 4), {"into", "pos"}, {"out"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_the_flow_tells_what_reads_the_input_and_makes_the_output(name: str) -> None:
    make, x, inputs, outputs = MODELS[name]
    model = make()
    flow = trace(model, x)
    for found, wanted in ((flow.inputs, inputs), (flow.outputs, outputs)):
        matrices = {n for n in found if "bias" not in n}
        assert matrices
        assert all(any(n.startswith(f"{w}.") for w in wanted) for n in matrices)
        assert all(any(n.startswith(f"{w}.") for n in matrices) for w in wanted)


@settings(max_examples=15, deadline=None)
@given(count=st.integers(3, 8), seed=st.integers(0, 999))
def test_the_order_of_assignment_changes_nothing(count: int, seed: int) -> None:
    model = Chain(count, seed)
    parts = {p.name: p for p in parts_of(model, trace(model, torch.zeros(1, 3))) if not p.bias}
    for place in range(count):
        part = parts[f"{'abcdefgh'[place]}x.weight"]
        assert part.depth == place
        role = "input" if place == 0 else "output" if place == count - 1 else "hidden"
        assert part.role == role
        assert part.places == {"middle" if role == "hidden" else role}


def test_recurrent_levels_and_attention_have_an_inner_and_an_outer_end() -> None:
    lstm = nn.LSTM(3, 4, 2, batch_first=True)
    flow = trace(lstm, torch.zeros(1, 5, 3))
    assert {n for n in flow.inputs if "weight" in n} == {"weight_ih_l0", "weight_hh_l0"}
    assert {n for n in flow.outputs if "weight" in n} == {"weight_ih_l1", "weight_hh_l1"}
    both = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)
    flow = trace(both, torch.zeros(1, 3, 8), torch.zeros(1, 3, 8))
    assert {n for n in flow.outputs if n.endswith("weight") and "norm" not in n} == {
        "decoder.layers.0.linear2.weight"
    }
    assert {n for n in flow.inputs if n.endswith("weight") and "norm" not in n} == {
        "encoder.layers.0.self_attn.in_proj_weight", "decoder.layers.0.self_attn.in_proj_weight"
    }  # fmt: skip


def test_bundled_models_have_the_same_roles_with_a_flow_and_by_their_names() -> None:
    for name in ("text-transformer", "digits-cnn", "digits-lstm", "digits-autoencoder"):
        task = tasks.get(name)
        model, batch = task.build(), task.train.take(torch.arange(3))
        named, seen = parts_of(model), parts_of(model, trace(model, *batch[:-1]))
        for one, other in zip(named, seen, strict=True):
            assert (one.name, one.depth, one.role) == (other.name, other.depth, other.role)
            assert one.places == other.places
        assert all(part.told for part in named)


def test_a_trace_leaves_the_model_and_the_random_state_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2))
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    trace(model, torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, before[n]) for n, a in model.state_dict().items())
    with pytest.raises(TaskError, match="cannot be followed back to a parameter"):
        trace(nn.ReLU(), X)


# ---- a head tied to the embedding ------------------------------------------------------------


@pytest.mark.parametrize("module", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_tied_matrix_is_both_ends(module: bool, bias: bool) -> None:
    model = Tied(module=module, bias=bias)
    flow = trace(model, torch.arange(4))
    roles = {part.name: part.role for part in parts_of(model, flow)}
    assert roles["emb.weight"] == "both"
    assert roles["mid.weight"] == "hidden"
    for rule in ("@output", "@input"):
        rows = plan({rule: 0.1}, model, flow=flow).rows
        assert {r.name: r.multiplier for r in rows}["emb.weight"] == 0.1
        assert {r.name: r.multiplier for r in rows}["mid.weight"] == 1.0
    ends = {r.name: r.multiplier for r in plan("ends(0.25, 2)", model, flow=flow).rows}
    assert (ends["emb.weight"], ends["mid.weight"]) == (0.25, 2.0)
    if module:
        assert ends.get("head.bias", 0.25) == 0.25
        named = {part.name: part.role for part in parts_of(model)}
        assert named["emb.weight"] == "both"
        assert named["mid.weight"] == "hidden"


@pytest.mark.parametrize("module", [True, False])
def test_mup_takes_the_middle_of_a_tied_model_for_hidden(module: bool) -> None:
    model = Tied(module=module)
    flow = trace(model, torch.arange(4))
    sgd = {r.name: r.multiplier for r in plan("mup(16)", model, optimizer="sgd", flow=flow).rows}
    assert sgd == {"emb.weight": 4.0, "mid.weight": 1.0, "mid.bias": 4.0}
    adam = {r.name: r.multiplier for r in plan("mup(16)", model, flow=flow).rows}
    assert adam == {"emb.weight": 1.0, "mid.weight": 0.25, "mid.bias": 1.0}
    ids = torch.arange(20).repeat(4)
    task = Task(lambda: Tied(module=module), (ids, ids), loss=nn.functional.cross_entropy)
    plain, own = (
        Run(task, Recipe(optimizer="sgd", lr_mult=mult, steps=1, batch_size=8))
        for mult in (None, "mup(16)")
    )
    assert torch.equal(
        plain.model.get_parameter("mid.weight"), own.model.get_parameter("mid.weight")
    )
    assert torch.equal(
        plain.model.get_parameter("emb.weight"), own.model.get_parameter("emb.weight")
    )


class HeadFirst(nn.Module):
    """A tied model that assigns its head before the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.mid = nn.Linear(16, 20), nn.Linear(16, 16)
        self.emb = nn.Embedding(20, 16)
        self.head.weight = self.emb.weight

    def forward(self, i: Tensor) -> Tensor:
        y: Tensor = self.head(torch.tanh(self.mid(self.emb(i))))
        return y


@pytest.mark.parametrize("traced", [True, False])
def test_a_tied_table_is_one_whichever_module_was_assigned_first(traced: bool) -> None:
    model = HeadFirst()
    flow = trace(model, torch.arange(4)) if traced else None
    parts = {part.name: part for part in parts_of(model, flow)}
    assert (parts["head.weight"].kind, parts["head.weight"].role) == ("embedding", "both")
    assert parts["head.bias"].role == "output"
    rows = plan("mup(8)", model, flow=flow).rows
    assert {r.name: r.multiplier for r in rows}["mid.weight"] == 0.5  # of the width, 16
    low = {r.name: r.multiplier for r in plan({"@output": 0.1}, model, flow=flow).rows}
    assert {name for name, m in low.items() if m == 0.1} == {"head.weight", "head.bias"}
    low = {r.name: r.multiplier for r in plan({"@input": 0.1}, model, flow=flow).rows}
    assert {name for name, m in low.items() if m == 0.1} == {"head.weight"}


def test_heads_side_by_side_are_one_layer() -> None:
    def both(n: nn.Module, x: Tensor) -> Tensor:
        h = torch.tanh(n.b(torch.tanh(n.a(x))))
        return torch.cat([n.p(h), n.v(h)], 1)

    model = Net(both, p=L(5, 3), v=L(5, 1), b=L(5, 5), a=L(4, 5))
    rows = plan("decay(0.5)", model, flow=trace(model, torch.randn(3, 4))).rows
    assert {r.name: r.multiplier for r in rows if r.name.endswith("weight")} == {
        "p.weight": 1.0,
        "v.weight": 1.0,
        "b.weight": 0.5,
        "a.weight": 0.25,
    }


class Loose(nn.Module):
    """Matrices of the model's own, in no module, assigned in another order than used in."""

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.tied = tied
        self.c = nn.Parameter(torch.randn(20, 16))
        self.a = nn.Parameter(torch.randn(20, 16))
        self.m = nn.Linear(16, 16)
        self.shift = nn.Parameter(torch.zeros(16))

    def forward(self, i: Tensor) -> Tensor:
        h = torch.tanh(self.m(self.a[i] + self.shift))
        return h @ (self.a if self.tied else self.c).T


@pytest.mark.parametrize("tied", [True, False])
def test_a_matrix_in_no_module_is_a_layer_of_its_own(tied: bool) -> None:
    model = Loose(tied=tied)
    flow = trace(model, torch.arange(4))
    first = {r.name: r.multiplier for r in plan({"@input": 0.5}, model, flow=flow).rows}
    assert (first["a"], first["m.weight"], first["shift"]) == (0.5, 1.0, 0.5)
    down = {r.name: r.multiplier for r in plan("decay(0.5)", model, flow=flow).rows}
    assert down["a"] < down["m.weight"]
    if not tied:
        assert (down["a"], down["m.weight"], down["c"]) == (0.25, 0.5, 1.0)
    # Whether its rows or its columns are the width, nothing says.
    with pytest.raises(BadValueError, match="the width cannot be inferred"):
        plan("mup(8)", model, flow=flow)


def test_mup_draws_the_output_smaller_wherever_it_was_assigned() -> None:
    def out_of_order(width: int = 64) -> nn.Module:
        torch.manual_seed(0)
        return Net(lambda n, x: n.z(torch.relu(n.m(torch.relu(n.a(x))))),
                   z=L(width, 3), a=L(4, width), m=L(width, width))  # fmt: skip

    y = torch.zeros(32).long()
    task = Task(lambda: out_of_order(), (torch.randn(32, 4), y), loss=F.cross_entropy)
    run = Run(task, Recipe(optimizer="sgd", lr_mult="mup(16)", steps=1, batch_size=8))
    assert run.state.rates is not None
    rows = {r.name: r.multiplier for r in run.state.rates.plan.rows}
    assert (rows["a.weight"], rows["m.weight"], rows["z.weight"]) == (4.0, 1.0, 0.25)
    assert torch.equal(run.model.z.weight, 0.5 * out_of_order().z.weight)
    assert torch.equal(run.model.m.weight, out_of_order().m.weight)


# ---- what names do not tell ------------------------------------------------------------------

ASKS = ["mup(2)", "ends(0.5)", {"@output": 0.1}, {"@input": 0.1}, "freeze('@output')"]


@pytest.mark.parametrize("rule", ASKS, ids=str)
def test_a_role_that_names_do_not_tell_is_asked_for(rule: object) -> None:
    model = Chain(4, 3)
    with pytest.raises(BadValueError, match=r"do not tell which .*trace\(model, inputs\)"):
        build("sgd", model, lr=0.1, lr_mult=rule)  # type: ignore[arg-type]
    flow = trace(model, torch.zeros(1, 3))
    assert build("sgd", model, lr=0.1, lr_mult=rule, flow=flow)  # type: ignore[arg-type]
    own = torch.optim.SGD(model.parameters(), lr=0.1)
    apply(own, model, rule, flow=flow)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("modules", "outputs", "told"),
    [
        ({"body": L(4, 8), "head": L(8, 2)}, {"head"}, True),
        ({"body": L(4, 8), "mid": L(8, 8), "classifier": nn.Sequential(L(8, 8), L(8, 2))},
         {"classifier.1"}, True),
        ({"fc1": L(4, 8), "fc2": L(8, 8), "fc3": L(8, 2)}, {"fc3"}, True),
        ({"conv1": nn.Conv2d(1, 2, 3), "layer1": L(2, 8), "fc": L(8, 2)}, {"fc"}, True),
        ({"body": L(4, 8), "heads": nn.ModuleList([L(8, 2), L(8, 1)])}, {"heads.0", "heads.1"},
         True),
        ({"head": L(8, 2), "body": L(4, 8)}, {"head"}, False),
        ({"one": L(4, 8), "other": L(8, 2)}, {"other"}, False),
        ({"fc2": L(8, 2), "fc1": L(4, 8)}, {"fc1"}, False),
    ],
)  # fmt: skip
def test_names_tell_the_output(
    modules: dict[str, nn.Module], outputs: set[str], told: bool
) -> None:
    parts = parts_of(Net(lambda n, x: x, **modules))
    found = {p.name.rpartition(".")[0] for p in parts if p.role in ("output", "both", "direct")}
    assert found == outputs
    assert {part.told for part in parts} == {told}


def test_a_layer_inside_the_body_that_is_called_output_is_none() -> None:
    block = nn.ModuleDict({"up": L(8, 8), "output": L(8, 8)})
    parts = parts_of(Net(lambda n, x: x, into=L(4, 8), blocks=nn.ModuleList([block]), head=L(8, 2)))
    assert {part.name for part in parts if part.role == "output"} == {"head.weight", "head.bias"}


def test_matrices_loose_in_one_module_tell_nothing() -> None:
    class Loose(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = (nn.Parameter(torch.randn(s)) for s in ((8, 2), (4, 8)))

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(x @ self.down) @ self.up

    assert not any(part.told for part in parts_of(Loose()))
    flow = trace(Loose(), X)
    assert {part.name: part.role for part in parts_of(Loose(), flow)} == {
        "up": "output", "down": "input"
    }  # fmt: skip


def test_depth_follows_the_order_of_use_in_a_run() -> None:
    y = torch.zeros(16, 5)
    task = Task(lambda: Chain(4, 1), (torch.randn(16, 3), y), loss=F.mse_loss)
    run = Run(task, Recipe(lr_mult="decay(0.5)", steps=1, batch_size=8))
    assert run.state.rates is not None
    rows = {r.name: r.multiplier for r in run.state.rates.plan.rows}
    assert [rows[f"{c}x.weight"] for c in "abcd"] == [0.125, 0.25, 0.5, 1.0]


def test_muon_leaves_the_head_that_the_flow_shows() -> None:
    ids = torch.arange(20).repeat(4)
    task = Task(lambda: Tied(module=False), (ids, ids), loss=F.cross_entropy)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = Run(task, Recipe(optimizer="muon", steps=1, batch_size=8))
    kinds = {id(p): g["matrix"] for g in run.optimizer.param_groups for p in g["params"]}
    assert {n for n, p in run.model.named_parameters() if kinds[id(p)]} >= {"mid.weight"}
    assert not kinds[id(run.model.get_parameter("emb.weight"))]


@pytest.mark.parametrize("named", [True, False])
def test_a_layer_before_a_frozen_head_is_no_output(named):
    layers = [nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)]
    names = ("first", "mid", "head") if named else "012"
    model = nn.Sequential(OrderedDict(zip(names, layers, strict=True)))
    layers[2].requires_grad_(False)
    for flow in (None, trace(model, torch.randn(3, 4))):
        roles = {part.name: part.role for part in parts_of(model, flow)}
        assert roles[f"{names[1]}.weight"] == "hidden"
        assert all(part.told for part in parts_of(model, flow))
    optimizer = build("muon", model)
    matrices = [g["params"] for g in optimizer.param_groups if g["matrix"]]
    assert any(layers[1].weight is p for group in matrices for p in group)
    with pytest.raises(BadValueError, match="@output"):
        build("sgd", model, lr_mult={"@output": 0.1})
    layers[2].requires_grad_(True)
    layers[0].requires_grad_(False)
    assert [part.role for part in parts_of(model) if not part.bias] == ["hidden", "output"]
