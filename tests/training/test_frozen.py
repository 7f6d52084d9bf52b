"""What has multiplier 0 has no say: training is that of requires_grad=False, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from etude import Recipe, Task, optimizers, train
from etude.engines import LoopEngine
from etude.engines.process.state_transfer import pack, unpack
from etude.engines.vmap.engine import VmapEngine
from etude.layerwise import rates_of
from etude.optimizers import ROWS
from etude.training.run import Run

NAMES = [row.name for row in ROWS.values() if row.installed and row.group_rates]
BOUNDS: list[dict[str, Any]] = [
    {},
    {"clip_norm": 0.05},
    {"clip_value": 0.01},
    {"clip_adaptive": 0.01},
    {"clip_percentile": 50},
    {"clip_adaptive": 0.05, "clip_norm": 0.1, "l2": 0.1},
    {"clip_norm": 0.1, "l1": 0.01, "accumulate": 2},
]
LAYERS = ("0", "2", "3", "5")


def net(frozen: tuple[str, ...] = ()) -> nn.Module:
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 2)
    )
    for name in frozen:
        model[int(name)].requires_grad_(False)
    return model


def data() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(24, 4, generator=draw), torch.randn(24, 2, generator=draw)


def run(recipe: Recipe, model: Callable[[], nn.Module] = net) -> Run:
    made = Run(Task(model, data(), loss=mse_loss), recipe)
    made.advance()
    return made


def assert_same(one: Run, other: Run) -> None:
    assert one.series == other.series
    for (name, a), b in zip(one.model.state_dict().items(), other.model.state_dict().values(),
                            strict=True):  # fmt: skip
        assert torch.equal(a, b), name


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=4, deadline=None)
@given(
    frozen=st.sets(st.sampled_from(LAYERS[:-1]), min_size=1, max_size=3).map(sorted),
    bound=st.sampled_from(BOUNDS),
    as_policy=st.booleans(),
)
def test_a_frozen_part_is_one_without_gradient(
    name: str, frozen: list[str], bound: dict[str, Any], as_policy: bool
) -> None:
    rules: Any = {f"{layer}.*": 0 for layer in frozen}
    if as_policy:
        rules = " * ".join(f"freeze('{layer}.*')" for layer in frozen)
    recipe = Recipe(optimizer=name, lr=0.01, steps=4, batch_size=8, **bound)
    without = run(recipe, lambda: net(tuple(frozen)))
    assert_same(run(recipe.replace(lr_mult=rules)), without)


def test_a_frozen_recurrent_body_takes_the_same_kernels() -> None:
    # torch computes an LSTM otherwise where nothing in it needs a gradient.
    def recurrent(frozen: bool) -> nn.Module:
        torch.manual_seed(0)
        model = Reader()
        model.rnn.requires_grad_(not frozen)
        return model

    task = [Task(lambda f=f: recurrent(f), sequences(), loss=mse_loss) for f in (True, False)]
    recipe = Recipe(lr=0.01, steps=3, batch_size=8, clip_norm=0.1)
    one, other = Run(task[0], recipe), Run(task[1], recipe.replace(lr_mult={"rnn*": 0}))
    one.advance()
    other.advance()
    assert_same(one, other)


def test_what_is_given_back_needs_gradients_as_it_did() -> None:
    model = net()
    record = train(
        Task(model, data(), loss=mse_loss), Recipe(lr_mult={"0.*": 0}, steps=2, batch_size=8)
    )
    assert all(p.requires_grad for p in model.parameters())
    assert record.model is not None
    assert all(p.requires_grad for p in record.model.parameters())
    assert torch.equal(record.model[0].weight, model[0].weight)
    assert not torch.equal(record.model[5].weight, model[5].weight)


def test_a_model_that_stands_still_as_a_whole_is_left_as_it_is() -> None:
    recipe = Recipe(lr_mult={"*": 0}, steps=2, batch_size=8, clip_norm=0.1, l2=0.1)
    found = run(recipe)
    assert found.series["grad_norm"] == [0.0, 0.0]
    for one, other in zip(found.model.parameters(), net().parameters(), strict=True):
        assert torch.equal(one, other)


# ---- thawing ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "optimizer",
    [
        {"name": "sgd", "momentum": 0.9, "weight_decay": 0.1},
        {"name": "adam", "weight_decay": 0.1},
        {"name": "adamw", "weight_decay": 0.5},
        {"name": "nadam"},
        {"name": "lamb"},
        {"name": "muon"},
    ],
    ids=lambda one: one["name"],
)
@pytest.mark.parametrize("rule", [{"0.*": "constant(0, 3) >> constant()"}, "freeze('0.*', 3)"])
def test_a_part_begins_when_it_thaws(optimizer: dict[str, Any], rule: Any) -> None:
    recipe = Recipe(
        optimizer=optimizer, lr=0.02, schedule="constant()", steps=6, batch_size="all",
        clip_norm=0.05, lr_mult=rule,
    )  # fmt: skip
    own = run(recipe, lambda: net())
    model = net()
    # LAMB counts its updates by the group.
    groups = [{"params": [*model[0].parameters()]}, {"params": [*model[2:].parameters()]}]
    given = groups if optimizer["name"] == "lamb" else model
    made = optimizers.build(lr=0.02, model_or_params=given, **optimizer)
    inputs, targets = own.task.train.tensors
    norms = []
    for step in range(6):
        made.zero_grad()
        mse_loss(model(inputs), targets).backward()
        if step < 3:
            model[0].weight.grad = model[0].bias.grad = None
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 0.05)))
        made.step()
    assert own.series["grad_norm"] == pytest.approx(norms, rel=1e-5)
    for one, other in zip(own.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "sparse_adam"])
def test_counts_of_a_group_begin_when_it_thaws(name: str) -> None:
    late = optimizers.build(name, (model := net()), lr=0.01, lr_mult="freeze('0.*', 3)")
    rates = rates_of(late)
    assert rates is not None
    rates.bind(8)
    early = optimizers.build(name, (fresh := net()), lr=0.01, lr_mult="freeze('0.*', 1)")
    first = rates_of(early)
    assert first is not None
    first.bind(8)
    for optimizer in (late, early):
        if ROWS[name].eval_mode:
            optimizer.train()  # type: ignore[attr-defined]
    weight = model[0].weight.detach().clone()
    for step in range(5):
        for one in model.parameters():
            one.grad = torch.full_like(one, 0.5) + one.detach()
        rates.set(0.01, step)
        late.step()
        # SOAP finds its bases in the first update of a tensor, ADOPT its moment: neither moves it.
        assert torch.equal(model[0].weight, weight) == (step < 3 + (name in ("soap", "adopt")))
        weight = model[0].weight.detach().clone() if step >= 2 else weight
    # The same two updates of the layer, begun at another time, in another run.
    for step in range(3):
        for one in fresh.parameters():
            one.grad = torch.full_like(one, 0.5) + one.detach()
        first.set(0.01, step)
        early.step()
    torch.testing.assert_close(model[0].weight, fresh[0].weight, rtol=1e-5, atol=1e-7)


# ---- rows of a tensor ------------------------------------------------------------------------


class Reader(nn.Module):
    """A recurrent network with a head."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(2, 3, batch_first=True)
        self.head = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.rnn(x)[0][:, -1])
        return y


def reader() -> nn.Module:
    torch.manual_seed(1)
    return Reader()


def sequences() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(2)
    return torch.randn(24, 5, 2, generator=draw), torch.randn(24, 1, generator=draw)


GATE = {"*[forget]": 0.0, "*bias*[cell]": 0.0}


@pytest.mark.parametrize("rule", [GATE, {"*[forget]": "constant(0, 5) >> constant()"}])
def test_a_gate_that_stands_still_has_no_part_in_the_norm(rule: dict[str, Any]) -> None:
    recipe = Recipe(optimizer="sgd", lr=0.1, schedule="constant()", steps=1, batch_size="all",
                    clip_norm=0.01, lr_mult=rule)  # fmt: skip
    own = Run(Task(reader, sequences(), loss=mse_loss), recipe)
    own.advance()
    model, (inputs, targets) = reader(), own.task.train.tensors
    mse_loss(model(inputs), targets).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None
        if name.startswith("rnn"):
            p.grad[3:6] = 0
        if rule is GATE and name.startswith("rnn.bias"):
            p.grad[6:9] = 0
    norm = nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    assert own.series["grad_norm"] == pytest.approx([norm.item()])
    for one, p in zip(own.model.parameters(), model.parameters(), strict=True):
        assert p.grad is not None
        torch.testing.assert_close(one.detach(), p.detach() - 0.1 * p.grad, rtol=1e-5, atol=1e-7)


def test_a_vector_is_bounded_by_the_size_of_what_moves_of_it() -> None:
    recipe = Recipe(optimizer="sgd", lr=1.0, schedule="constant()", steps=1, batch_size="all",
                    clip_adaptive=1e-4, lr_mult={"*[forget]": 0.0})  # fmt: skip
    own = Run(Task(reader, sequences(), loss=mse_loss), recipe)
    own.advance()
    before = dict(reader().named_parameters())["rnn.bias_ih_l0"].detach()
    change = own.model.get_parameter("rnn.bias_ih_l0").detach() - before
    moving = torch.cat([before[:3], before[6:]])
    assert change.norm().item() == pytest.approx(1e-4 * moving.norm().item(), rel=1e-3)
    assert torch.equal(change[3:6], torch.zeros(3))


@pytest.mark.parametrize(
    "more", [{"clip_norm": 0.05}, {"clip_adaptive": 0.01, "clip_value": 0.01}, {"l2": 0.3}]
)
def test_stacked_members_are_single_runs(more: dict[str, Any]) -> None:
    def classes() -> tuple[Tensor, Tensor]:
        inputs, targets = sequences()
        return inputs.flatten(1), (targets[:, 0] > 0).long()

    def dense() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(10, 6), nn.Tanh(), nn.Linear(6, 2))

    task = Task(dense, classes(), loss=cross_entropy)
    rules: list[Any] = [None, {"0.weight[0:3]": 0, "0.bias[1:2]": 0}, {"2.*": 0}, {"0.*": 0}]
    recipes = [
        Recipe(optimizer={"name": "sgd", "momentum": 0.9, "weight_decay": 0.1}, lr=0.05, steps=6,
               batch_size=8, lr_mult=rule, **more)
        for rule in rules
    ]  # fmt: skip
    ours, theirs = ([Run(task, recipe) for recipe in recipes] for _ in range(2))
    engine = VmapEngine(compile="never")
    engine.advance(ours)
    LoopEngine().advance(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.series.keys() == other.series.keys()
        for name, values in one.series.items():
            assert values == pytest.approx(other.series[name], rel=1e-4), name
        for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


# ---- parts that take turns, and loops of one's own ---------------------------------------------


def test_a_part_that_stands_still_has_its_turn_and_stays() -> None:
    def pair() -> nn.Module:
        torch.manual_seed(0)
        return nn.ModuleDict({"a": nn.Linear(4, 2), "b": nn.Linear(2, 2)})

    def step(model: Any, batch: Any) -> Any:
        inputs, targets = batch
        yield "a", mse_loss(model["a"](inputs), targets)
        yield "b", mse_loss(model["b"](model["a"](inputs).detach()), targets)

    task = Task(pair, data(), step=step)
    recipe = Recipe(lr=0.01, steps=3, batch_size=8, clip_norm=0.1, l2=0.1)
    still = Run(task, recipe.replace(lr_mult={"a.*": 0}))
    still.advance()
    assert still.series["grad_norm/a"] == [0.0] * 3
    assert torch.equal(still.model["a"].weight, pair()["a"].weight)
    assert not torch.equal(still.model["b"].weight, pair()["b"].weight)
    weight = Run(task, recipe.replace(lr_mult={"a.weight": 0}))
    weight.advance()
    assert torch.equal(weight.model["a"].weight, pair()["a"].weight)
    assert not torch.equal(weight.model["a"].bias, pair()["a"].bias)


def test_a_loop_of_ones_own_drops_frozen_gradients_before_it_clips() -> None:
    moved = []
    for frozen in (True, False):
        model = net(("0", "2", "3") if frozen else ())
        rules = None if frozen else {"5.*": 1, "*": 0}
        optimizer = optimizers.build("sgd", model, lr=0.1, lr_mult=rules)
        mse_loss(model(data()[0]), data()[1]).backward()
        rates = rates_of(optimizer)
        if rates is not None:
            rates.drop_frozen_gradients()
        nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        optimizer.step()
        moved.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*moved, strict=True))


def test_a_step_leaves_the_gradients_that_it_does_not_use() -> None:
    model = net()
    optimizer = optimizers.build("adamw", model, lr=0.1, lr_mult={"0.*": 0})
    mse_loss(model(data()[0]), data()[1]).backward()
    gradient = model[0].weight.grad
    optimizer.step()
    assert model[0].weight.grad is gradient
    assert model[0].weight not in optimizer.state


def test_statistics_of_a_frozen_normalisation_go_on_as_without_gradient() -> None:
    def normalised(frozen: bool) -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
        model[:2].requires_grad_(not frozen)
        return model

    recipe = Recipe(lr=0.01, steps=3, batch_size=8)
    one = run(recipe, lambda: normalised(True))
    other = run(recipe.replace(lr_mult="freeze('0.*') * freeze('1.*')"), lambda: normalised(False))
    assert_same(one, other)
    assert not torch.equal(one.model[1].running_mean, torch.zeros(6))


@pytest.mark.parametrize(
    "rule", [{"0.*": 0}, "freeze('0.*', 3)", {"0.weight[0:3]": 0}, "unfreeze('50%')"], ids=str
)
def test_a_resumed_run_goes_on_to_the_bit(rule: Any) -> None:
    recipe = Recipe(lr=0.01, steps=6, batch_size=8, clip_norm=0.05, l2=0.1, lr_mult=rule)
    whole = run(recipe)
    first, second = (Run(Task(net, data(), loss=mse_loss), recipe) for _ in range(2))
    first.advance(2)
    second.load_state_dict(unpack(pack(first.state_dict())))
    second.advance()
    assert_same(whole, second)
