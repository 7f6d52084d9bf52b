"""NumPy, torch and JAX arrays in, the same kind out; under jit and compile too."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.errors import BadTypeError, BadValueError
from etude.schedules import Schedule, cosine, function, parse, register, restarts, warmup
from etude.schedules.testing import drawn, kinds, schedules

S = parse(
    "0.1 * (warmup(50) >> cosine(500, floor=0.1)) * multi_step((100, 300), 0.5)"
    " + 0.01 * restarts(30, length_mult=2.0, height_mult=0.9)"
    " + triangular(20, per_cycle=0.5) * plateau(patience=0, log=((5, 1.0), (9, 1.0)))"
)
T = np.arange(0, 700, 3)


@given(schedules(2), st.lists(st.integers(0, 10**6), min_size=1, max_size=20))
@settings(max_examples=60)
def test_torch_gives_the_values_of_numpy(s: Schedule, steps: list[int]) -> None:
    out = s(torch.tensor(steps))
    assert isinstance(out, torch.Tensor)
    assert out.dtype == torch.float64
    np.testing.assert_allclose(out.numpy(), s(np.array(steps)), rtol=1e-13, atol=1e-13)
    assert torch.equal(out, s(torch.tensor(steps, dtype=torch.float64)))


@pytest.mark.parametrize("name", drawn())
def test_jax_gives_the_values_of_numpy_for_every_kind(name: str) -> None:
    @given(kinds(name), st.lists(st.integers(0, 10**5), min_size=5, max_size=5))
    @settings(max_examples=4)
    def check(s: Schedule, steps: list[int]) -> None:
        with jax.enable_x64(True):
            out = s(jnp.asarray(steps))
            assert out.dtype == jnp.float64
        np.testing.assert_allclose(np.asarray(out), s(np.array(steps)), rtol=1e-12, atol=1e-13)

    check()


def test_jit_gives_the_same_values() -> None:
    with jax.enable_x64(True):
        traced = jax.jit(lambda t: S(t))
        np.testing.assert_allclose(np.asarray(traced(jnp.asarray(T))), S(T), rtol=1e-12)
        assert float(traced(jnp.asarray(70))) == pytest.approx(S(70), rel=1e-12)
    # without x64 JAX has float32 only
    np.testing.assert_allclose(np.asarray(jax.jit(S)(jnp.asarray(T))), S(T), rtol=1e-5)


@pytest.mark.filterwarnings("ignore:Dynamo detected")
def test_a_compiled_torch_step_may_hold_a_schedule() -> None:
    compiled = torch.compile(lambda t: 2.0 * S(t), backend="eager", fullgraph=True)
    t = torch.from_numpy(T)
    np.testing.assert_allclose(compiled(t).numpy(), 2.0 * S(T), rtol=1e-13)


def test_long_arrays_give_the_values_of_short_ones() -> None:
    t = np.arange(100_000).reshape(100, 1_000)
    long = S(t)
    assert long.shape == t.shape
    np.testing.assert_array_equal(long, np.stack([S(row) for row in t]))


def test_torch_keeps_the_device() -> None:
    out = S(torch.arange(5, device="meta"))
    assert out.device.type == "meta"


def test_a_scalar_of_a_library_gives_a_scalar_of_it() -> None:
    assert isinstance(S(np.int64(5)), np.floating)
    assert isinstance(S(np.float64(5)), np.floating)
    assert S(torch.tensor(5)).shape == ()
    assert float(S(np.int64(5))) == pytest.approx(S(5), rel=1e-14)


def test_numpy_scalars_multiply_a_schedule() -> None:
    assert np.float64(0.1) * cosine(5) == 0.1 * cosine(5) == cosine(5) * np.float64(0.1)


def test_steps_that_are_no_numbers_are_refused() -> None:
    s = cosine(10)
    for bad, message in (
        (True, "a step is a number"),
        ("5", "step is a str"),
        ([1, 2], "step is a list"),
        (None, "step is a NoneType"),
        (np.array([True]), "array of bool"),
        (np.array([1j]), "array of complex128"),
    ):
        with pytest.raises(BadTypeError, match=message):
            s(bad)
    for nan in (float("nan"), float("inf"), 2**53 + 1):
        with pytest.raises(BadValueError, match="finite number of at most"):
            s(nan)


def test_nan_stays_nan_in_arrays() -> None:
    out = restarts(10)(np.array([np.nan, np.inf, 5.0]))
    np.testing.assert_array_equal(np.isnan(out), [True, True, False])


def test_an_unbound_schedule_cannot_be_called() -> None:
    for text in (
        "warmup('5%') >> cosine()",
        "warmup(5) >> cosine()",
        "cosine()",
        "constant(length='5%')",
        "multi_step(('5%',))",
        "restarts('5%')",
        "cosine().repeat(3)",
        "constant().shift('5%')",
        "constant().repeat(3)",
        "cosine().fit('5%')",
        "cosine() * plateau()",
    ):
        s = parse(text)
        assert not s.is_bound
        for t in (0, 5, 7.5, -1, np.arange(3)):
            with pytest.raises(BadValueError, match=r"has no length in steps yet.*\.over"):
                s(t)


def test_a_user_function_is_evaluated_on_arrays() -> None:
    register("test_array_slow", lambda t: 0.5 ** (t // 10), replace=True)
    register("test_array", lambda t: t / 2, array=lambda t, xp: t / 2, replace=True)
    for name in ("test_array_slow", "test_array"):
        s = warmup(10) >> function(name, length=100)
        np.testing.assert_array_equal(s(T), [s(int(t)) for t in T])
        assert s(torch.from_numpy(T)).dtype == torch.float64
    np.testing.assert_allclose(jax.jit(function("test_array"))(jnp.arange(4.0)), [0, 0.5, 1, 1.5])
    with pytest.raises(BadTypeError, match="register it with array="):
        jax.jit(function("test_array_slow"))(jnp.arange(4.0))


def test_importing_schedules_loads_no_array_library() -> None:
    code = (
        "import sys, etude.schedules as s; s.parse('warmup(5) >> cosine(9)')(3);"
        "print([m for m in ('numpy', 'torch', 'jax', 'plotly', 'array_api_compat')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.stdout.strip() == "[]", done.stderr
