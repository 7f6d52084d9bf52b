"""The edge of stability: known Hessians, frozen preconditioners, and a measured limit."""

from __future__ import annotations

import random
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset

from etude import Recipe, Task, optimizers, tasks
from etude.errors import BadTypeError, BadValueError, TaskError
from etude.measure.edge import edge
from etude.measure.probe import SPIKE, judge
from etude.measure.sharpness import sharpness
from etude.measure.threshold import RULES, stability
from etude.optimizers.factory import build
from etude.optimizers.hessian import PRICE
from etude.randomness import random_state_kept
from etude.training.run import Run
from tests import helpers


class Bowl(nn.Module):
    """Numbers whose loss is half the sum of curvature × number²."""

    def __init__(self, curvatures: tuple[float, ...]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.linspace(1, 2, len(curvatures)))
        self.curvatures = torch.tensor(curvatures)

    def forward(self, x: Tensor) -> Tensor:
        return (self.curvatures * self.w**2).sum() / 2 + 0 * x


def bowl(*curvatures: float) -> Task:
    x = torch.zeros(16, 1)
    return Task(lambda: Bowl(curvatures), (x, x), loss=lambda y, _: y.mean(), name="bowl")


def flat(optimizer: Any, lr: float, steps: int = 200, **more: Any) -> Recipe:
    fixed = {"schedule": "constant()", "batch_size": "all", **more}
    return Recipe(optimizer=optimizer, lr=lr, steps=steps, **fixed)


data = cache(partial(helpers.data, 120))
mlp = partial(helpers.noisy, 8, 0.5, nn.Tanh)


def task(model: Any = mlp, **more: Any) -> Task:
    return Task(model, data(), loss=cross_entropy, **more)


def dense_hessian(run: Run, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the Hessian by autograd's own means, its parameters laid end to end."""
    names = [n for n, _ in run.model.named_parameters()]
    values = [p.detach() for p in run.model.parameters()]
    sizes = [v.numel() for v in values]

    def loss(vector: Tensor) -> Tensor:
        parts = vector.split(sizes)
        table = {n: p.view_as(v) for n, p, v in zip(names, parts, values, strict=True)}
        return cross_entropy(torch.func.functional_call(run.model, table, (batch[0],)), batch[1])

    whole = torch.cat([v.flatten() for v in values])
    return torch.autograd.functional.hessian(loss, whole)  # type: ignore[return-value]


# ---- eigenvalues -------------------------------------------------------------------------


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=6), st.floats(-5, 5))
@settings(max_examples=25)
def test_the_sharpness_of_a_bowl_is_its_largest_curvature_with_its_sign(others, first):
    curvatures = (first, *others)
    assume(max(abs(c) for c in curvatures) > 1e-2 and abs(max(curvatures)) > 1e-2)
    found = sharpness(Run(bowl(*curvatures), flat("sgd", 0.1)), tolerance=1e-4)
    assert found.value == pytest.approx(max(curvatures), rel=1e-3, abs=1e-4)
    assert found.lowest >= min(curvatures) - 1e-3
    if max(curvatures) < 0:
        assert found.limit is None  # it curves up nowhere: nothing to break on
    else:
        assert found.limit == pytest.approx(2 / max(curvatures), rel=1e-3)


def test_the_sharpness_of_a_network_is_that_of_its_whole_hessian():
    def net() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2))

    weights = torch.cat([torch.full((p.numel(),), p.ndim - 1.0) for p in net().parameters()])
    for recipe, added in (
        (flat("sgd", 0.1), torch.zeros(38)),
        (flat("sgd", 0.1, l2=0.25), 0.25 * weights),  # a penalty spares the biases
        (flat({"name": "sgd", "weight_decay": 0.25}, 0.1), 0.25 * torch.ones(38)),
        (flat("adamw", 0.1), torch.zeros(38)),  # decoupled: no part of the loss
    ):
        run = Run(task(net), recipe)
        whole = dense_hessian(run, run.task.train.tensors) + added.diag()
        found = sharpness(run, tolerance=1e-4, iterations=38)
        assert found.value == pytest.approx(float(torch.linalg.eigvalsh(whole)[-1]), rel=1e-3)


def test_a_sample_in_several_batches_is_their_mean():
    net = nn.Linear(6, 2)
    whole = sharpness(Run(task(net), flat("sgd", 0.1)), tolerance=1e-4)
    parts = sharpness(Run(task(net), flat("sgd", 0.1, batch_size=32)), samples=96, tolerance=1e-4)
    assert whole.samples == parts.samples == 96
    assert parts.value == pytest.approx(whole.value, rel=1e-3)
    assert whole.gradients == 96 * (1 + PRICE * whole.products)
    assert parts.gradients == 96 * (1 + PRICE) * parts.products


def test_more_batches_than_the_data_has_are_not_asked_for():
    found = sharpness(Run(task(), Recipe(batch_size=32, lr=0.1, steps=20)), samples=10_000)
    assert found.samples == 96


def test_too_few_products_are_not_called_converged():
    run = Run(bowl(*(float(c) for c in range(1, 30))), flat("sgd", 0.01))
    assert not sharpness(run, tolerance=1e-5, iterations=3).converged
    assert sharpness(run, tolerance=1e-5, iterations=30).converged


# ---- models without second derivatives ---------------------------------------------------


class Once(torch.autograd.Function):
    """A square whose backward pass cannot be differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * g * ctx.saved_tensors[0]


class Hard(Bowl):
    def forward(self, x: Tensor) -> Tensor:
        return (self.curvatures * Once.apply(self.w)).sum() / 2 + 0 * x


def test_without_second_derivatives_differences_of_the_gradient_are_taken_and_named():
    x = torch.zeros(8, 1)
    hard = Task(lambda: Hard((3.0, 0.5, -1.0)), (x, x), loss=lambda y, _: y.mean())
    run = Run(hard, flat("sgd", 0.1))
    before = run.model.w.detach().clone()
    found = sharpness(run, tolerance=1e-3)
    assert found.method == "finite differences"
    assert found.value == pytest.approx(3.0, rel=1e-2)
    assert torch.equal(run.model.w, before)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits-lstm", "digits-transformer"])
def test_recurrent_cells_and_attention_have_second_derivatives(name):
    found = sharpness(Run(tasks.get(name), Recipe(batch_size=16, steps=20)), samples=16)
    assert found.method == "second derivatives"
    assert found.value > 0


# ---- thresholds --------------------------------------------------------------------------


FROZEN = {
    "exp_avg_sq": 4.0,
    "max_exp_avg_sq": 4.0,
    "exp_inf": 2.0,
    "square_avg": 4.0,
    "sum": 4.0,
    "grad_avg": 0.0,
}
LATE = 30_000.0
CASES = [
    {"name": "sgd"},
    {"name": "sgd", "momentum": 0.8},
    {"name": "sgd", "momentum": 0.8, "nesterov": True},
    {"name": "sgd", "momentum": 0.8, "dampening": 0.5},
    {"name": "averaged_momentum", "momentum": 0.8},
    {"name": "adam"},
    {"name": "adam", "betas": (0.5, 0.999)},
    {"name": "adam", "amsgrad": True},
    {"name": "adamw", "weight_decay": 0.0},
    {"name": "adam_uncorrected"},
    {"name": "adamax"},
    {"name": "nadam"},
    {"name": "rmsprop"},
    {"name": "rmsprop", "momentum": 0.5, "centered": True},
    {"name": "adagrad"},
]


def grows(choice: dict[str, Any], rate: float, curvature: float) -> bool:
    """Whether the optimizer itself, its divisor held fixed, runs away on a quadratic.

    It starts so near the minimum that its gradients do not move the divisor.
    """
    fields = dict(choice)
    w = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = build(fields.pop("name"), [w], lr=rate, **fields)
    w.grad = curvature * w.detach()
    optimizer.step()  # fills the state
    state = optimizer.state[w]
    for name, value in state.items():
        if isinstance(value, Tensor):
            value.fill_(FROZEN.get(name, LATE if name == "step" else 0.0))
    w.data.fill_(1e-30)
    seen = []
    for _ in range(500):
        w.grad = curvature * w.detach()
        optimizer.step()
        for name in FROZEN.keys() & state.keys():
            if isinstance(state[name], Tensor):
                state[name].fill_(FROZEN[name])
        seen.append(abs(w.item()))
        if seen[-1] > 1e-20:
            return True
    return seen[-1] > 1e3 * max(seen[:20])


@pytest.mark.parametrize("choice", CASES, ids=str)
def test_each_threshold_is_where_the_optimizer_itself_runs_away(choice):
    """With the divisor frozen at 2, on curvature 6: torch's own step against the formula."""
    curvature, divisor = 6.0, 1.0 if choice["name"] in ("sgd", "averaged_momentum") else 2.0
    fields = {k: v for k, v in choice.items() if k != "name"}
    run = Run(bowl(curvature), flat(choice, 1e-3, 10))
    run.advance(1)
    for state in run.optimizer.state.values():
        if "step" in state:
            state["step"] = torch.tensor(LATE)
    threshold = stability(run).threshold
    assert threshold is not None, fields
    limit = threshold / (curvature / divisor)
    assert not grows(choice, 0.97 * limit, curvature)
    assert grows(choice, 1.05 * limit, curvature)


def test_the_thresholds_are_those_of_the_papers():
    def threshold(optimizer: Any) -> float | None:
        run = Run(bowl(1.0), flat(optimizer, 1e-3, 10))
        run.advance(1)
        return stability(run).threshold

    assert threshold("sgd") == 2
    assert threshold({"name": "sgd", "momentum": 0.9}) == pytest.approx(3.8)
    nesterov = {"name": "sgd", "momentum": 0.9, "nesterov": True}
    assert threshold(nesterov) == pytest.approx(3.8 / 2.8)
    assert threshold("adam") == pytest.approx(38)
    assert threshold("rmsprop") == 2


@pytest.mark.parametrize(
    "name", sorted(n for n, row in optimizers.ROWS.items() if row.stability not in RULES)
)
def test_an_optimizer_without_a_threshold_says_so(name):
    row = optimizers.get(name)
    pytest.importorskip(row.module.partition(".")[0])
    recipe = Recipe(optimizer=name, steps=10, batch_size="all")
    run = Run(Task(nn.Linear(6, 2), data(), loss=cross_entropy), recipe)
    found = sharpness(run, iterations=4)
    assert found.threshold is None
    assert found.limit is None
    assert name in found.reason


@pytest.mark.parametrize(("name", "key"), [("adam", "exp_avg_sq"), ("rmsprop", "square_avg")])
def test_adaptive_optimizers_are_measured_behind_their_own_second_moment(name, key):
    curvatures = (8.0, 1.0, 0.25)
    run = Run(bowl(*curvatures), flat(name, 1e-2, 50))
    assert sharpness(run).threshold is None  # there is no second moment yet
    run.advance(20)
    found = sharpness(run, tolerance=1e-4)
    second = run.optimizer.state[run.model.w][key].double()
    if name == "adam":
        second = second / (1 - 0.999**20)
    want = (torch.tensor(curvatures) / (second.sqrt() + 1e-8)).max()
    assert found.value == pytest.approx(8.0, rel=1e-3)
    assert found.preconditioned == pytest.approx(float(want), rel=1e-3)
    assert found.limit == pytest.approx(found.threshold / float(want), rel=1e-3)


def test_multipliers_of_the_rate_count():
    plain = sharpness(Run(bowl(4.0, 1.0), flat("sgd", 0.1)))
    faster = sharpness(Run(bowl(4.0, 1.0), flat("sgd", 0.1, lr_mult={"w": 3.0})))
    assert plain.preconditioned == plain.value
    assert faster.value == pytest.approx(plain.value)
    assert faster.preconditioned == pytest.approx(3 * plain.value, rel=1e-3)


# ---- the measured limit ------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "threshold"),
    [
        ("sgd", 2.0),
        ({"name": "sgd", "momentum": 0.9}, 3.8),
        ({"name": "sgd", "momentum": 0.5, "nesterov": True}, 1.5),
    ],
)
@pytest.mark.parametrize("start", [0.05, 0.7])
def test_descent_breaks_where_curvature_says(optimizer, threshold, start):
    curvature = 5.0
    lr = start * threshold / curvature
    found = edge(bowl(curvature, 0.5), flat(optimizer, lr, 300), bisections=3, steps=300)
    assert found.predicted == pytest.approx(threshold / curvature, rel=1e-3)
    assert found.stable is not None
    assert found.unstable is not None
    step = 2 ** (1 / 8)
    assert found.stable <= found.predicted * 1.03
    assert found.unstable >= found.predicted * 0.97
    assert found.unstable / found.stable == pytest.approx(step, rel=1e-6)
    assert found.ratio == pytest.approx(1.0, abs=0.1)


def test_a_rate_that_breaks_itself_is_halved_until_it_holds():
    found = edge(bowl(1.0), flat("sgd", 10.0), bisections=2)
    assert found.own.unstable
    assert found.twice is None
    assert found.stable < 2 < found.unstable
    assert "The recipe's rate 10 breaks" in found.advice()


def test_the_cost_is_everything_that_was_computed():
    found = edge(bowl(1.0), flat("sgd", 0.3, 100, batch_size=12), steps=50)
    updates = sum(probe.updates for probe in found.probes)
    looks = sum(one.gradients for one in found.sharpness)
    assert found.gradients == updates * 12 + looks
    assert found.cost == pytest.approx(found.gradients / (100 * 12))


def test_probes_are_paired_and_start_alike():
    found = edge(task(), Recipe(lr=0.01, steps=60, batch_size=16), doublings=2)
    assert len({probe.first for probe in found.probes}) == 1
    assert len({probe.last for probe in found.probes}) == len(found.probes)


def test_a_task_with_a_step_of_its_own():
    def step(model: nn.Module, batch: Any) -> Tensor:
        return mse_loss(model(batch[0]), batch[1])

    x = torch.linspace(-1, 1, 64)[:, None]
    own = Task(nn.Linear(1, 1), (x, 2 * x), step=step)
    found = edge(own, flat("sgd", 0.1, 60), doublings=5)
    assert found.stable < found.predicted * 1.05
    assert found.limit is not None


def test_where_parts_take_turns_only_the_measured_limit_is_given():
    def step(model: nn.Module, batch: Any) -> Any:
        yield "0", model(batch[0]).pow(2).mean()
        yield "2", (model(batch[0]) - 1).pow(2).mean()

    net = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1))
    turns = Task(net, data(), step=step)
    recipe = Recipe(lr=0.01, steps=30, batch_size=16)
    found = edge(turns, recipe, doublings=1)
    assert found.sharpness == ()
    assert "take turns" in found.unpredicted()
    with pytest.raises(TaskError, match="there is no single loss"):
        sharpness(Run(turns, recipe))


def test_what_the_user_gave_is_left_alone():
    net = mlp()
    net.eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    x, y = data()
    loader = DataLoader(
        TensorDataset(x, y), 16, shuffle=True, generator=torch.Generator().manual_seed(5)
    )
    given_to = Task(net, loader, (x, y), loss=cross_entropy)
    with random_state_kept(7):
        state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
        order = loader.generator.get_state()
        edge(given_to, Recipe(lr=0.01, steps=30), doublings=1, bisections=0)
        assert torch.equal(torch.get_rng_state(), state[0])
        assert random.getstate() == state[1]
        assert np.random.get_state()[1].tolist() == state[2]  # noqa: NPY002
        assert torch.equal(loader.generator.get_state(), order)
    assert not any(module.training for module in net.modules())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_measuring_leaves_no_trace_in_the_run():
    recipe = Recipe(lr=0.01, steps=40, batch_size=16)
    plain, looked = Run(task(), recipe), Run(task(), recipe)
    for run in (plain, looked):
        run.advance(15)
    first = sharpness(looked)
    assert sharpness(looked) == first  # dropout is off, and the draws are the seed's
    modes = [module.training for module in looked.model.modules()]
    for run in (plain, looked):
        run.advance()
    assert all(modes)
    assert plain.series["loss"] == looked.series["loss"]
    ours, theirs = plain.model.state_dict(), looked.model.state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


# ---- what is said of a probe -------------------------------------------------------------

curves = st.lists(st.floats(0.01, 10), min_size=10, max_size=60)


@given(curves)
def test_the_rise_is_the_largest_over_the_running_minimum(losses):
    found = judge(0.1, losses, [1.0], "", None)
    want = max(b - a for i, a in enumerate(losses) for b in losses[i:])
    assert found.rise == pytest.approx(want)
    assert found.unstable == (not found.last < losses[0])


@given(curves, st.floats(0.1, 100))
def test_the_verdict_does_not_depend_on_the_unit_of_the_loss(losses, unit):
    own = [3.0 / (t + 1) for t in range(len(losses))]
    one = judge(0.1, losses, [1.0], "", own)
    other = judge(0.1, [unit * v for v in losses], [1.0], "", [unit * v for v in own])
    assert one.unstable == other.unstable
    assert other.rise == pytest.approx(unit * one.rise)


def test_a_spike_is_measured_against_the_recipes_own_run():
    calm = [2.0 - 0.03 * t for t in range(50)]
    spiky = [*calm[:20], calm[19] + 1.0, *calm[21:]]
    assert judge(0.2, spiky, [1.0], "", calm).spiked
    assert not judge(0.2, spiky, [1.0], "", spiky).spiked
    assert judge(0.2, spiky, [1.0], "", calm).rise_at == 20
    assert SPIKE > 1


def test_a_dead_network_far_below_its_start_is_unstable():
    own = [10.0 / (t + 1) for t in range(100)]
    dead = [10.0, *[4.0] * 99]
    slow = [10.0 - 0.06 * t for t in range(100)]
    assert judge(0.2, dead, [1.0], "", own).unstable
    assert not judge(0.2, slow, [1.0], "", own).unstable
    assert judge(0.2, [1.0], [], "the training loss became nan", own).diverged


def test_the_norm_is_its_ninetieth_percentile():
    assert judge(0.1, [2.0, 1.0], list(range(101)), "", None).norm == 90


# ---- errors ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 1}, "steps=1 is out of bounds"),
        ({"steps": 0.5}, "steps=0.5 is not a whole number"),
        ({"doublings": 0}, "doublings=0 is out of bounds"),
        ({"samples": 0}, "samples=0 is out of bounds"),
        ({"tolerance": 2.0}, "tolerance=2.0 is out of bounds"),
    ],
)
def test_wrong_numbers_are_named(wrong, message):
    with pytest.raises((BadValueError, BadTypeError), match=message):
        edge(bowl(1.0), flat("sgd", 0.1), **wrong)


def test_a_run_too_short_to_break_is_refused():
    with pytest.raises(BadValueError, match="too short to tell whether training breaks"):
        edge(bowl(1.0), flat("sgd", 0.1, 5))


def test_a_task_that_does_not_fit_is_told_before_anything_is_trained():
    with pytest.raises(TaskError, match="does not fit the loss"):
        edge(task(lambda: nn.Linear(6, 1)), Recipe(lr=0.1, steps=20, batch_size=16))
