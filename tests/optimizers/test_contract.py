"""What every row of the table promises, row by row."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import inspect
import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from etude.errors import (
    BadTypeError,
    BadValueError,
    EtudeError,
    MissingExtraError,
    TaskError,
    UnknownNameError,
)
from etude.optimizers import ROWS, build, get
from etude.optimizers.factory import factory
from etude.optimizers.hyperparameters import Flag, Number, Pair, Selectors, Whole
from etude.optimizers.state import restore
from etude.storage.state_tree import flatten, unflatten
from tests.helpers import INSTALLED, take_step

NAMES = [row.name for row in INSTALLED]
FIRST_ORDER = [row.name for row in INSTALLED if not row.closure]


def parameters(dtype: torch.dtype = torch.float64, seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(3, 4), (4,), (2, 2)]
    return [
        nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype))
        for s in shapes
    ]


def loss_of(params: list[nn.Parameter]) -> torch.Tensor:
    a, b, c = params
    return (a @ b).square().sum() + (torch.tanh(c) - 0.3).square().sum() + 0.1 * b.square().sum()


def update(optimizer: torch.optim.Optimizer, params: list[nn.Parameter]) -> None:
    kind = next(r.closure for r in ROWS.values() if r.installed and type(optimizer) is factory(r))
    take_step(optimizer, kind, lambda: loss_of(params))


def made(name: str, params: list[nn.Parameter], lr: float | None = None, **values: object):
    lr = {"lars": 1.0}.get(name, min(1.0, 10 ** get(name).centre)) if lr is None else lr
    optimizer = build(name, params, lr=lr, **values)
    if get(name).eval_mode:
        optimizer.train()
    return optimizer


def flat(params: list[nn.Parameter]) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in params])


# ---- the table ---------------------------------------------------------------------------


def test_the_table_holds_what_was_asked_for():
    asked = "sgd averaged_momentum adagrad rmsprop adam adam_uncorrected newton newton_cg lbfgs"
    asked += " adamw nadam radam adadelta adafactor lion lamb lars muon shampoo soap prodigy"
    asked += " dadapt_adam schedulefree_adamw schedulefree_sgd sparse_adam"
    asked += " adam_mini adopt cautious_adamw grams mars stable_adamw schedulefree_plus torch_muon"
    assert set(asked.split()) <= set(ROWS)
    vmapped = {"sgd", "adam", "adamw", "rmsprop", "adagrad", "nadam", "lion"}
    assert {name for name, row in ROWS.items() if row.vmap} == vmapped


@pytest.mark.parametrize("name", NAMES)
def test_the_row_says_what_the_factory_does(name):
    row = get(name)
    signature = inspect.signature(factory(row)).parameters
    assert row.lr == signature["lr"].default
    for key, kind in row.hyperparameters.items():
        assert kind.default == pytest.approx(signature[key].default), key
        assert kind.check("x", kind.default) == kind.default
        assert kind.bounds
    assert row.paper
    assert row.when
    assert row.rate_free == (row.lr == 1.0 and name != "schedulefree_sgd")
    assert not (row.linear and (row.eval_mode or row.closure or not row.group_rates))
    assert row.eval_mode == (hasattr(factory(row), "train") and hasattr(factory(row), "eval"))
    assert ("weight_decay" in row.hyperparameters) == (row.decay != "none")
    assert row.decay_flag == "" or isinstance(row.hyperparameters[row.decay_flag], Flag)


ALTERNATIVES = {
    "betas": (0.5, 0.7),
    "eps": 0.1,
    "weight_decay": 0.3,
    "momentum": 0.5,
    "dampening": 0.4,
    "lr_decay": 0.5,
    "initial_accumulator_value": 0.5,
    "rho": 0.5,
    "alpha": 0.5,
    "momentum_decay": 0.5,
    "beta2_decay": -0.3,
    "d": 2.0,
    "d0": 1e-2,
    "d_coef": 2.0,
    "r": 1.0,
    "weight_lr_power": 0.0,
    "trust_coefficient": 0.01,
    "matrix_eps": 0.1,
    "damping": 0.5,
    "tolerance_grad": 10.0,
    "tolerance_change": 1.0,
    "ns_steps": 2,
    "preconditioning_compute_steps": 2,
    "precondition_frequency": 2,
    "max_iter": 1,
    "history_size": 1,
    "iterations": 1,
    "gamma": 0.3,
    "sf_beta1": 0.5,
    "sf_beta1_max": 0.5,
    "anneal_steps": 6.0,
    "c_warmup": 3.0,
}
NEEDS = {
    ("sgd", "dampening"): {"momentum": 0.9},
    ("sgd", "nesterov"): {"momentum": 0.9},
    ("nadam", "decoupled_weight_decay"): {"weight_decay": 0.3},
    ("radam", "decoupled_weight_decay"): {"weight_decay": 0.3},
    ("prodigy", "decouple"): {"weight_decay": 0.3, "d0": 1e-2},
    ("prodigy", "weight_decay"): {"d0": 1e-2},
    ("prodigy", "eps"): {"d0": 1e-2},
    ("prodigy", "safeguard_warmup"): {"d_coef": 1e3},
    ("dadapt_adam", "decouple"): {"weight_decay": 0.3},
    ("adopt", "weight_decouple"): {"weight_decay": 0.3},
    ("schedulefree_plus", "sf_beta1_max"): {"anneal_steps": 6.0},
    ("adam", "amsgrad"): {"betas": (0.5, 0.2)},  # a second moment that falls with the gradient
    ("adamw", "amsgrad"): {"betas": (0.5, 0.2)},
}


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (row.name, key)
        for row in INSTALLED
        for key, kind in row.hyperparameters.items()
        if not isinstance(kind, Selectors)  # tests/optimizers/test_muon.py
    ],
)
def test_every_hyperparameter_acts(name, key):
    kind = get(name).hyperparameters[key]
    base = NEEDS.get((name, key), {})
    other = not kind.default if isinstance(kind, Flag) else ALTERNATIVES.get(key)
    outcomes = []
    for values in (base, {**base, key: other}):
        params = parameters()
        optimizer = made(name, params, **values)
        for step in range(12):
            if key in ("weight_lr_power", "safeguard_warmup"):  # these act while the rate rises
                for group in optimizer.param_groups:
                    group["lr"] = 0.1 + 0.1 * step
            if get(name).closure:
                update(optimizer, params)
                continue
            for p, twin in zip(params, parameters(seed=step + 1), strict=True):
                p.grad = twin.detach().clone()
            optimizer.step()
        outcomes.append(flat(params))
    assert not torch.equal(*outcomes)
    assert torch.isfinite(torch.stack(outcomes)).all()


@pytest.mark.parametrize("name", list(ROWS))
def test_values_out_of_bounds_are_refused(name):
    row = get(name)
    params = [nn.Parameter(torch.zeros(2))]
    for key, kind in row.hyperparameters.items():
        place = rf"{name}\.{key}"
        wrong: list[object] = ["x", None]
        if isinstance(kind, Number):
            wrong += [math.nan, math.inf, True, kind.low - 1]
            if kind.high < math.inf:
                wrong.append(kind.high + 1)
            if kind.above:
                wrong.append(kind.low)
        elif isinstance(kind, Whole):
            wrong += [0, 1.5, True]
        elif isinstance(kind, Pair):
            wrong += [0.9, (0.9,), (0.9, 1.0), (math.nan, 0.9), (0.9, True)]
        elif isinstance(kind, Flag):
            wrong += [1, 0.0]
        for value in wrong:
            message = rf"{place}(\[\d\])?="
            with pytest.raises((BadValueError, BadTypeError), match=message) as caught:
                row.check({key: value})
            assert isinstance(caught.value, EtudeError)
    with pytest.raises(UnknownNameError, match=f"unknown hyperparameter of {name} 'momentun'"):
        build(name, params, lr=0.1, momentun=0.9)
    for lr in (-1.0, math.nan, math.inf):
        with pytest.raises(BadValueError, match=r"lr=.* is out of bounds: give a finite number"):
            build(name, params, lr=lr)


# ---- what an update keeps ----------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_rate_zero_changes_nothing(name):
    params = parameters()
    before = flat(params)
    optimizer = made(name, params, lr=0.0)
    for _ in range(3):
        update(optimizer, params)
    assert torch.equal(flat(params), before)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_dtype_is_kept(name, dtype):
    params = parameters(dtype)
    before = flat(params)
    optimizer = made(name, params, **({"d0": 1e-2} if get(name).decay_flag == "decouple" else {}))
    for _ in range(3):
        update(optimizer, params)
    assert all(p.dtype == dtype for p in params)
    assert torch.isfinite(flat(params)).all()
    assert not torch.equal(flat(params), before)


@pytest.mark.parametrize("name", NAMES)
def test_the_state_survives_the_safe_formats(name):
    params = parameters()
    optimizer = made(name, params)
    for _ in range(3):
        update(optimizer, params)
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    again = made(name, twins)
    restore(again, unflatten(*flatten(copy.deepcopy(optimizer.state_dict()))))
    for _ in range(3):
        update(optimizer, params)
        update(again, twins)
    assert torch.equal(flat(params), flat(twins))


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_groups_have_their_own_rates_or_are_refused(name):
    def grouped(first: float, second: float) -> torch.Tensor:
        params = parameters()
        optimizer = made(name, [{"params": params[:1]}, {"params": params[1:]}], lr=1.0)
        for _ in range(3):
            for group, lr in zip(optimizer.param_groups, (first, second), strict=True):
                group["lr"] = lr
            for p, twin in zip(params, parameters(seed=1), strict=True):
                p.grad = twin.detach().clone()
            optimizer.step()
        return flat(params)

    if not get(name).group_rates:
        with pytest.raises(RuntimeError, match=r"[Ss]etting different lr values"):
            grouped(0.1, 0.05)
        return
    at = 12
    one, two, mixed = grouped(0.1, 0.1), grouped(0.05, 0.05), grouped(0.1, 0.05)
    assert torch.equal(mixed[:at], one[:at])
    assert torch.equal(mixed[at:], two[at:])
    still = grouped(0.1, 0.0)
    assert torch.equal(still[at:], flat(parameters())[at:])


# ---- what a multiplier of the rate relies on ---------------------------------------------


def stepped(name: str, lr: float, bump: float = 0.0) -> torch.Tensor:
    """The change of the fourth update, at its own rate, with one entry's gradient changed."""
    params = parameters()
    optimizer = made(name, params, lr=0.1)
    for step in range(4):
        before = flat(params)
        for p, twin in zip(params, parameters(seed=step + 1), strict=True):
            p.grad = twin.detach().clone()
        if step == 3:
            params[0].grad[0, 0] += bump
            for group in optimizer.param_groups:
                group["lr"] = lr
        optimizer.step()
    return flat(params) - before


@pytest.mark.parametrize("name", [name for name in FIRST_ORDER if get(name).group_rates])
def test_linear_means_that_each_entry_moves_by_its_own_rate(name):
    one, double = stepped(name, 0.1), stepped(name, 0.2)
    bumped = stepped(name, 0.1, bump=0.5)
    scales = torch.allclose(double, 2 * one, rtol=1e-9, atol=1e-13)
    alone = torch.allclose(bumped[1:], one[1:], rtol=1e-9, atol=1e-13)
    assert (scales and alone) == get(name).linear


KINDS_OF_DECAY = [
    (row.name, flag)
    for row in INSTALLED
    for flag in ((False, True) if row.decay_flag else (False,))
    if row.decay != "none"
]


@pytest.mark.parametrize(("name", "flag"), KINDS_OF_DECAY)
def test_decay_joins_the_gradient_or_not_as_stated(name, flag):
    row = get(name)
    values = {row.decay_flag: flag} if row.decay_flag else {}
    values |= {"momentum": 0.9} if name == "sgd" else {}
    states = []
    for decay in (0.0, 0.5):
        params = parameters()
        optimizer = made(name, params, weight_decay=decay, **values)
        for _ in range(2):
            for p, twin in zip(params, parameters(seed=3), strict=True):
                p.grad = twin.detach().clone()
            optimizer.step()
        moments = {}
        for index, p in enumerate(params):
            for key, value in optimizer.state[p].items():
                if isinstance(value, torch.Tensor) and key not in ("z", "x", "x0", "p0"):
                    moments[index, key] = value.clone()
        states.append((flat(params), moments))
    assert not torch.equal(states[0][0], states[1][0])
    same = all(torch.equal(states[0][1][k], states[1][1][k]) for k in states[0][1])
    if name == "schedulefree_sgd":
        assert row.decay == "coupled"  # it keeps no moment: the two are one
        return
    assert same == (row.decays(values) == "decoupled")


# ---- building ----------------------------------------------------------------------------


def test_a_parameter_that_reaches_no_optimizer_is_an_error(monkeypatch):
    model = nn.Linear(2, 2)

    class Forgetful(torch.optim.SGD):
        def __init__(self, params, lr):
            groups = list(params)
            groups[0]["params"] = groups[0]["params"][:1]
            super().__init__(groups, lr)

    monkeypatch.setattr(torch.optim, "SGD", Forgetful)
    with pytest.raises(TaskError, match="bias would not be trained: put every"):
        build("sgd", model, lr=0.1)


def test_parameters_that_cannot_be_trained_are_named():
    model = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(TaskError, match="no trainable parameter: every requires_grad is False"):
        build("adamw", model, lr=0.1)
    with pytest.raises(TaskError, match="no trainable parameter"):
        build("adamw", [], lr=0.1)
    w = nn.Parameter(torch.zeros(2))
    with pytest.raises(TaskError, match="listed twice"):
        build("adamw", [w, w], lr=0.1)
    with pytest.raises(TaskError, match="a lazy layer has no shape yet"):
        build("adamw", nn.LazyLinear(2), lr=0.1)
    with pytest.raises(UnknownNameError, match="unknown optimizer 'adamv': did you mean 'adam"):
        build("adamv", [w], lr=0.1)
    with pytest.raises(BadValueError, match=r"sgd refuses .*Nesterov momentum requires"):
        build("sgd", [w], lr=0.1, nesterov=True)


def test_frozen_parameters_are_left_out_and_tied_ones_are_taken_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model[2].requires_grad_(False)
    taken = [p for g in build("adamw", model, lr=0.1).param_groups for p in g["params"]]
    assert [id(p) for p in taken] == [id(p) for p in model[:2].parameters()]


def test_embeddings_are_no_matrices_to_muon():
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    optimizer = build("muon", model, lr=0.1)
    kinds = {id(p): g["matrix"] for g in optimizer.param_groups for p in g["params"]}
    assert not kinds[id(model[0].weight)]
    assert kinds[id(model[1].weight)]
    assert not kinds[id(model[2].weight)]
    model(torch.arange(6)).square().sum().backward()
    optimizer.step()
    assert set(optimizer.state[model[0].weight]) == {"step", "exp_avg", "exp_avg_sq"}
    assert set(optimizer.state[model[1].weight]) == {"momentum_buffer"}
    assert set(optimizer.state[model[1].bias]) == {"step", "exp_avg", "exp_avg_sq"}


@pytest.mark.parametrize("name", [row.name for row in ROWS.values() if row.package])
def test_a_missing_library_is_named_with_what_to_install(name, monkeypatch):
    row = get(name)
    real = importlib.import_module

    def absent(module, *rest):
        if module == row.module:
            raise ModuleNotFoundError(f"No module named {module!r}")
        return real(module, *rest)

    monkeypatch.setattr(importlib, "import_module", absent)
    message = rf"the optimizer '{name}' comes from {row.package}.*pip install 'etude\[optimizers\]'"
    with pytest.raises(MissingExtraError, match=message):
        build(name, [nn.Parameter(torch.zeros(2))], lr=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_building_prints_nothing(name, capsys):
    values = {"weight_decay": 0.1} if "weight_decay" in get(name).hyperparameters else {}
    made(
        name,
        parameters(),
        **values,
        **({"decouple": True} if get(name).decay_flag == "decouple" else {}),
    )
    assert capsys.readouterr().out == ""


def test_reading_the_table_loads_no_torch():
    code = (
        "import sys, etude.optimizers as o; o.get('muon').check({'ns_steps': 3});"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_etudes_own_refuse_a_sparse_gradient_by_name():
    w = nn.Parameter(torch.zeros(3, 2))
    w.grad = torch.sparse_coo_tensor(torch.tensor([[1]]), torch.ones(1, 2), (3, 2))
    for name in ("lamb", "averaged_momentum", "adam_uncorrected"):
        with pytest.raises(TaskError, match="does not take sparse gradients: use sgd"):
            build(name, [w], lr=0.1).step()
