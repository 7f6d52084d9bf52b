import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etude.errors import BadValueError
from etude.interop.optax import to_optax
from etude.schedules import KINDS, Clock, cosine, linear, multi_step, parse, warmup

optax = pytest.importorskip("optax")

CLOCK = Clock(horizon=200, steps_per_epoch=20, samples_per_step=8, tokens_per_step=64)
ALL = sorted({text for row in KINDS.values() for text in row.examples})
EXAMPLES = [text for text in ALL if not parse(text).has_feedback]
STEPS = np.array([0, 1, 7, 20, 50, 99, 100, 101, 199, 200, 500])


@pytest.mark.parametrize("text", EXAMPLES)
def test_to_optax_is_the_schedule_under_jit_and_vmap(text):
    s = parse(text).over(CLOCK)
    ours = to_optax(s)
    expected = np.array([s(int(t)) for t in STEPS])
    traced = jax.jit(jax.vmap(ours))(jnp.asarray(STEPS))
    assert traced.dtype == jnp.float32
    assert np.allclose(traced, expected, rtol=2e-5, atol=1e-6)
    assert [float(ours(int(t))) for t in STEPS] == [float(np.float32(v)) for v in expected]


def test_optax_trains_with_it():
    s = 0.1 * (warmup(3) >> cosine(7))
    optimizer = optax.sgd(to_optax(s))
    params = {"w": jnp.ones(2)}
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for t in range(10):
        updates, state = update({"w": jnp.ones(2)}, state, params)
        assert np.allclose(updates["w"], -s(t), atol=1e-8), t


def test_hyperparameters_are_injected():
    s = to_optax(0.9 * linear(10, start=1.0, end=0.5))
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1, momentum=s)
    params = {"w": jnp.ones(2)}
    state = optimizer.init(params)
    _, state = optimizer.update(params, state, params)
    _, state = optimizer.update(params, state, params)
    assert float(state.hyperparams["momentum"]) == pytest.approx(s.schedule(1), rel=1e-6)


def test_it_is_a_value():
    s = to_optax("0.1 * cosine(100)")
    assert pickle.loads(pickle.dumps(s)) == s == to_optax(0.1 * cosine(100))
    assert hash(s) == hash(to_optax(0.1 * cosine(100)))


def test_a_python_count_is_exact_beyond_float32():
    s = to_optax(multi_step((2**24 + 1,), 0.5))
    assert (float(s(2**24)), float(s(2**24 + 1))) == (1.0, 0.5)


def test_an_unbound_schedule_is_refused():
    with pytest.raises(BadValueError, match=r"no length in steps yet: pass it as schedule.over"):
        to_optax(warmup(5) >> cosine())


@pytest.mark.parametrize("text", sorted(set(ALL) - set(EXAMPLES)))
@pytest.mark.parametrize("around", ["{}", "0.1 * {}", "warmup(5) >> 0.1 * {}", "({}).clip(0.1)"])
def test_what_reacts_to_a_metric_is_refused_with_the_way_out(text, around):
    with pytest.raises(BadValueError, match=r"optax calls .* optax\.contrib\.reduce_on_plateau"):
        to_optax(around.format(text))


@pytest.mark.parametrize(
    ("text", "hyperparameter"),
    [
        ("linear(10, 0.1, -0.1)", "lr"),
        ("linear(10, 0.9, 1.2)", "momentum"),
        ("linear(10, 0.9, 1.2)", "beta2"),
        ("exponential(0.5) - 0.25", "weight_decay"),
    ],
)
def test_a_value_out_of_bounds_is_refused_unless_it_is_a_factor(text, hyperparameter):
    with pytest.raises(BadValueError, match=r"out of bounds: .* give to_optax\(schedule, None\)"):
        to_optax(text, hyperparameter)
    assert float(to_optax(text, None)(3)) == pytest.approx(parse(text)(3))


def test_a_factor_of_any_sign_goes_into_scale_by_schedule():
    optimizer = optax.scale_by_schedule(to_optax(-0.1 * cosine(100), None))
    params = {"w": jnp.ones(1)}
    update, _ = optimizer.update(params, optimizer.init(params))
    assert float(update["w"][0]) == pytest.approx(-0.1)
