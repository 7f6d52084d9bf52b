"""Every row against its formula in NumPy, over random problems."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.optimizers import ROWS, build
from etude.optimizers.hyperparameters import Flag, Number, Pair, Whole
from tests.optimizers import reference, reference_variants

SHAPES = ((3, 4), (5,))
FORMULAS = [name for name, row in ROWS.items() if not row.closure]
TOLERANCE = {"muon": 0.06, "torch_muon": 0.06}
"""Relative to the largest change; torch's Newton-Schulz computes in bfloat16 (8 bits)."""
TOLERANCE |= {"shampoo": 1e-6}  # eigenvectors of nearly singular matrices
TOLERANCE |= {"soap": 1e-3}  # and the library's QR is in float32
TOLERANCE |= {"nadam": 1e-6}  # torch keeps the product of its momenta in float32


def formula(name: str) -> Callable[..., reference.Path]:
    """The optimizer of a row in NumPy."""
    found: Callable[..., reference.Path] = getattr(
        reference, name, getattr(reference_variants, name, None)
    )
    return found


def installed(name: str) -> bool:
    row = ROWS[name]
    return not row.package or importlib.util.find_spec(row.module) is not None


def value_for(name: str, kind: object, draw: st.DrawFn) -> object:
    if isinstance(kind, Flag):
        return draw(st.booleans())
    if isinstance(kind, Pair):
        return (draw(st.floats(0.05, 0.97)), draw(st.floats(0.5, 0.999)))
    if isinstance(kind, Whole):
        return draw(st.integers(1, 6))
    assert isinstance(kind, Number)
    low, high = {
        "eps": (1e-8, 1e-3),
        "lr_decay": (0.0, 1.0),
        "weight_decay": (0.0, 0.5),
        "momentum": (0.05, 0.97),
        "d": (1.0, 3.0),
        "d0": (1e-6, 1e-2),
        "d_coef": (0.5, 2.0),
        "beta2_decay": (-1.0, -0.2),
        "matrix_eps": (1e-4, 1e-2),
        "trust_coefficient": (1e-3, 0.1),
        "r": (0.0, 2.0),
        "weight_lr_power": (0.0, 2.0),
        "initial_accumulator_value": (0.0, 1.0),
        "anneal_steps": (0.0, 10.0),
        "c_warmup": (0.0, 4.0),
        "gamma": (0.0, 0.1),
    }.get(name, (0.05, 0.95))
    return draw(st.floats(low, high))


@st.composite
def settings_of(draw: st.DrawFn, name: str) -> dict[str, object]:
    row = ROWS[name]
    chosen = {}
    for key, kind in row.hyperparameters.items():
        if key in ("preconditioning_compute_steps", "matrix"):
            continue
        if draw(st.booleans()):
            chosen[key] = value_for(key, kind, draw)
    if name == "sgd" and chosen.get("nesterov"):
        chosen |= {"momentum": 0.9, "dampening": 0.0}
    return chosen


def trajectory(name, start, gradients, lr, values) -> list[np.ndarray]:
    parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = build(name, [parameter], lr=lr, **values)
    if ROWS[name].eval_mode:
        optimizer.train()
    path = []
    for gradient in gradients:
        parameter.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
        path.append(parameter.detach().numpy().copy())
    return path


@pytest.mark.parametrize("name", FORMULAS)
@settings(max_examples=25)
@given(data=st.data())
def test_it_follows_its_formula(name, data):
    if not installed(name):
        pytest.skip(f"{ROWS[name].package} is not installed")
    values = data.draw(settings_of(name))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="seed"))
    lr = data.draw(st.sampled_from([1.0, 0.1, 0.003] if not ROWS[name].rate_free else [1.0, 0.5]))
    for shape in SHAPES:
        start = rng.normal(size=shape)
        gradients = [rng.normal(size=shape) for _ in range(8)]
        got = trajectory(name, start, gradients, lr, values)
        want = reference.walk(formula(name), start, gradients, lr=lr, **values)
        scale = max(np.abs(w - start).max() for w in want)
        bound = TOLERANCE.get(name, 1e-9) * scale + 1e-12
        for one, other in zip(got, want, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=bound)


def test_the_reference_covers_every_setting():
    import inspect

    for name in FORMULAS:
        takes = set(inspect.signature(formula(name)).parameters)
        missing = (
            set(ROWS[name].hyperparameters) - takes - {"preconditioning_compute_steps", "matrix"}
        )
        assert not missing, name


# ---- both conventions of momentum --------------------------------------------------------


@given(st.floats(0.01, 0.99), st.integers(0, 2**31))
def test_the_average_is_the_heavy_ball_at_another_rate(beta, seed):
    rng = np.random.default_rng(seed)
    start, gradients = rng.normal(size=4), [rng.normal(size=4) for _ in range(6)]
    average = trajectory("averaged_momentum", start, gradients, 0.5, {"momentum": beta})
    ball = trajectory("sgd", start, gradients, 0.5 * (1 - beta), {"momentum": beta})
    np.testing.assert_allclose(average, ball, rtol=1e-9, atol=1e-12)


def test_torchs_dampening_is_another_first_update():
    start, gradients = np.zeros(1), [np.ones(1), np.ones(1)]
    dampened = trajectory("sgd", start, gradients, 1.0, {"momentum": 0.9, "dampening": 0.9})
    average = trajectory("averaged_momentum", start, gradients, 1.0, {"momentum": 0.9})
    assert dampened[0] == -1.0
    assert average[0] == pytest.approx(-0.1)


# ---- lazy Adam ---------------------------------------------------------------------------


@given(st.integers(0, 2**31))
def test_lazy_adam_moves_only_the_rows_it_sees(seed):
    rng = np.random.default_rng(seed)
    start = rng.normal(size=(4, 2))
    parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = build("sparse_adam", [parameter], lr=0.1)
    seen = [sorted(rng.choice(4, 2, replace=False)) for _ in range(5)]
    gradients = [rng.normal(size=(2, 2)) for _ in seen]
    m, v, w = np.zeros((4, 2)), np.zeros((4, 2)), start.copy()
    for t, (rows, g) in enumerate(zip(seen, gradients, strict=True), start=1):
        parameter.grad = torch.sparse_coo_tensor(
            torch.tensor(np.array([rows])), torch.from_numpy(g), (4, 2)
        )
        optimizer.step()
        m[rows] = 0.9 * m[rows] + 0.1 * g
        v[rows] = 0.999 * v[rows] + 0.001 * g**2
        correction = np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        w[rows] -= 0.1 * correction * m[rows] / (np.sqrt(v[rows]) + 1e-8)
        np.testing.assert_allclose(parameter.detach().numpy(), w, rtol=1e-9, atol=1e-12)


# ---- second order ------------------------------------------------------------------------


def quadratic(seed: int, size: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A symmetric matrix with eigenvalues in [0.5, 4], a vector, and a start."""
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(size, size)))
    matrix = turn * rng.uniform(0.5, 4, size=size) @ turn.T
    return (matrix + matrix.T) / 2, rng.normal(size=size), rng.normal(size=size)


def minimise(name, matrix, vector, start, steps, lr=1.0, **values):
    parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
    a, b = torch.from_numpy(matrix), torch.from_numpy(vector)
    optimizer = build(name, [parameter], lr=lr, **values)

    def loss():
        value = 0.5 * parameter @ a @ parameter - b @ parameter
        if name == "lbfgs":
            optimizer.zero_grad()
            value.backward()
        return value

    for _ in range(steps):
        optimizer.step(loss)
    return parameter.detach().numpy(), optimizer


@given(st.integers(0, 2**31), st.floats(1e-3, 10.0), st.sampled_from([1.0, 0.5, 0.1]))
def test_damped_newton_takes_the_damped_step(seed, damping, lr):
    matrix, vector, start = quadratic(seed)
    got, optimizer = minimise("newton", matrix, vector, start, 1, lr=lr, damping=damping)
    want = reference.damped_newton_step(start, matrix @ start - vector, matrix, lr, damping)
    np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-10)
    assert optimizer.products == len(start)


@given(st.integers(0, 2**31), st.integers(1, 6), st.floats(0.0, 1.0))
def test_newton_cg_takes_the_conjugate_gradient_step(seed, count, damping):
    matrix, vector, start = quadratic(seed)
    got, optimizer = minimise(
        "newton_cg", matrix, vector, start, 1, iterations=count, damping=damping
    )
    g = matrix @ start - vector
    size = np.linalg.norm(g)
    target = min(0.5, np.sqrt(size)) * size
    damped = matrix + damping * np.eye(len(g))
    want = start + reference.conjugate_gradients(damped, -g, count, target)
    np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-10)
    assert optimizer.products <= count


@pytest.mark.parametrize("name", ["newton", "newton_cg", "lbfgs"])
@settings(max_examples=20)
@given(st.integers(0, 2**31))
def test_a_quadratic_is_minimised(name, seed):
    matrix, vector, start = quadratic(seed)
    got, _ = minimise(name, matrix, vector, start, 12)
    np.testing.assert_allclose(got, np.linalg.solve(matrix, vector), atol=1e-4)


@pytest.mark.parametrize("name", ["newton", "newton_cg"])
@given(st.integers(0, 2**31))
def test_no_step_goes_up_even_where_the_curvature_is_negative(name, seed):
    rng = np.random.default_rng(seed)
    parameter = torch.nn.Parameter(torch.from_numpy(rng.normal(size=4)))
    mix = torch.from_numpy(rng.normal(size=(4, 4)))

    def loss():
        y = mix @ parameter
        return torch.cos(3 * y).sum() + 0.05 * (y**4).sum()

    optimizer = build(name, [parameter], lr=1.0)
    values = [loss().item()]
    for _ in range(6):
        optimizer.step(loss)
        values.append(loss().item())
    assert (np.diff(values) <= 1e-12).all()


def test_newton_refuses_what_it_cannot_hold():
    from etude.errors import BadValueError, TaskError

    with pytest.raises(BadValueError, match="2001 parameters are more than 2000: use newton_cg"):
        build("newton", [torch.nn.Parameter(torch.zeros(2001))], lr=1.0)
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(2)]
    for name in ("newton", "newton_cg"):
        with pytest.raises(BadValueError, match="at once: give one group"):
            build(name, groups, lr=1.0)
    w = torch.nn.Parameter(torch.ones(2))

    class Second(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, g):
            raise RuntimeError("derivative for aten::kernel_backward is not implemented")

    class First(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.square()

        @staticmethod
        def backward(ctx, g):
            return g * Second.apply(ctx.saved_tensors[0])

    with pytest.raises(TaskError, match=r"the model has no second derivative: .*first-order"):
        build("newton_cg", [w], lr=1.0).step(lambda: First.apply(w).sum())


def test_a_loss_that_is_a_plane_has_no_curvature():
    from etude.optimizers.classes.hessian import Hessian

    w = torch.nn.Parameter(torch.ones(3))
    hessian = Hessian((2 * w).sum(), [w])
    assert hessian.times(torch.ones(3)).tolist() == [0, 0, 0]
    assert hessian.gradient.tolist() == [2, 2, 2]


@given(st.integers(0, 2**31))
def test_hessian_products_equal_the_matrix(seed):
    from etude.optimizers.classes.hessian import Hessian

    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
    net = net.double()
    x = torch.randn(5, 2, dtype=torch.float64)
    parameters = list(net.parameters())
    hessian = Hessian(net(x).square().mean(), parameters)
    sizes = [p.numel() for p in parameters]

    def loss(flat):
        parts = [part.view_as(p) for part, p in zip(flat.split(sizes), parameters, strict=True)]
        values = dict(zip(dict(net.named_parameters()), parts, strict=True))
        return torch.func.functional_call(net, values, (x,)).square().mean()

    flat = torch.cat([p.detach().flatten() for p in parameters])
    want = torch.autograd.functional.hessian(loss, flat)
    torch.testing.assert_close(hessian.matrix(), want)
    vector = torch.randn(hessian.size, dtype=torch.float64)
    torch.testing.assert_close(hessian.times(vector), want @ vector)
