"""JAX: a pure step is compiled once for all rates, and ends as in a loop of one's own."""

import numpy as np
import pytest

from etude.errors import BadTypeError, BadValueError, TaskError

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")

import jax.numpy as jnp  # noqa: E402

from etude import tune_loop  # noqa: E402
from etude.interop.jax import tune  # noqa: E402

STEPS = 60
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((64, 4)), jnp.float32)
Y = X[:, :1] - 2 * X[:, 1:2] + 0.1
BATCHES = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 48, 8)]
START = {"w": jnp.zeros((4, 1)), "b": jnp.zeros(1)}


def outputs(params, x):
    return x @ params["w"] + params["b"]


def mse(params, batch):
    x, y = batch
    return jnp.mean((outputs(params, x) - y) ** 2)


def valid(state):
    params = state[0] if isinstance(state, tuple) else state
    return jnp.mean((outputs(params, X[48:]) - Y[48:]) ** 2, axis=1)


def sgd(params, batch, lr):
    loss, gradient = jax.value_and_grad(mse)(params, batch)
    return jax.tree.map(lambda p, g: p - lr * g, params, gradient), loss


ADAM = optax.scale_by_adam()


def adam(state, batch, lr):
    params, inner = state
    loss, gradient = jax.value_and_grad(mse)(params, batch)
    updates, inner = ADAM.update(gradient, inner)
    return (jax.tree.map(lambda p, u: p - lr * u, params, updates), inner), loss


def quick(step=sgd, state=START, batches=BATCHES, budget=3.0, **more):
    return tune(step, state, batches, STEPS, budget, valid=valid, progress=False, **more)


@pytest.mark.parametrize(("step", "state"), [(sgd, START), (adam, (START, ADAM.init(START)))])
def test_the_state_is_that_of_a_loop_at_the_same_rate_to_the_bit(step, state):
    best = quick(step, state)
    compiled, alone = jax.jit(step), state
    for t in range(STEPS):
        alone, _ = compiled(alone, BATCHES[t % len(BATCHES)], best.lr)
    for mine, own in zip(jax.tree.leaves(best.value), jax.tree.leaves(alone), strict=True):
        assert np.array_equal(mine, own)
    assert best.loss == pytest.approx(float(jnp.mean(valid(alone))))
    assert best.confidence is not None
    assert best.cost <= 3.0


def test_it_is_compiled_once_for_all_rates():
    traced = []

    def step(params, batch, lr):
        traced.append("step")
        return sgd(params, batch, lr)

    def score(params):
        traced.append("valid")
        return valid(params)

    best = tune(step, START, BATCHES, STEPS, valid=score, progress=False)
    assert len(best.trials) > 3
    assert sorted(traced) == ["step", "valid"]


def test_the_schedule_multiplies_the_rate():
    best = quick(schedule="linear()")
    alone, compiled = START, jax.jit(sgd)
    for t in range(STEPS):
        alone, _ = compiled(alone, BATCHES[t % len(BATCHES)], best.lr * (1 - t / STEPS))
    assert np.allclose(best.value["w"], alone["w"], atol=1e-6)


def test_the_search_is_that_of_a_loop_of_ones_own():
    step, score = jax.jit(sgd), jax.jit(valid)

    def train(lr):
        params = START
        yield 0, np.asarray(score(params)).tolist()
        for t in range(STEPS):
            params, loss = step(params, BATCHES[t % len(BATCHES)], lr)
            yield t + 1, lambda held=params: np.asarray(score(held)).tolist(), float(loss)

    own = tune_loop(train, STEPS, around=0.1, progress=False)
    mine = quick(around=0.1)
    assert [t.lr for t in mine.trials] == [t.lr for t in own.trials]
    assert (mine.lr, mine.outcome, mine.cost) == (own.lr, own.outcome, own.cost)


def test_a_step_that_gives_its_state_away_leaves_the_first_one_alone():
    def step(params, batch, lr):
        return jax.jit(sgd, donate_argnums=0)(params, batch, lr)

    best = quick(step)
    assert float(START["w"].sum()) == 0
    assert best.loss < 1


def test_without_jit_a_step_may_donate_its_state():
    step = jax.jit(sgd, donate_argnums=0)
    start = jax.tree.map(jnp.array, START)
    best = quick(step, start, jit=False)
    assert float(start["w"].sum()) == 0  # it is still there
    assert best.loss == pytest.approx(quick(step).loss)
    assert [t.lr for t in best.trials] == [t.lr for t in quick(step).trials]


def test_a_state_of_numpy_that_a_step_changes_in_place_is_left_alone():
    def step(w, batch, lr):
        gradient = 2 * (w - 1)
        w -= lr * gradient
        return w, float(np.mean(gradient**2))

    start = np.zeros(3)
    best = tune(
        step, start, [None], STEPS, valid=lambda w: np.mean((w - 1) ** 2), jit=False, progress=False
    )
    assert not start.any()
    assert best.value == pytest.approx(np.ones(3), abs=0.1)


def test_a_batch_that_is_donated_without_jit_is_refused():
    step = jax.jit(sgd, donate_argnums=1)
    batches = [jax.tree.map(jnp.array, batch) for batch in BATCHES]
    with pytest.raises(TaskError, match="may donate its state alone"):
        tune(step, START, batches, STEPS, valid=deleting(batches), jit=False, progress=False)


def deleting(batches):
    """A validation after which the batches are gone, as where the memory of one is taken."""

    def call(state):
        for batch in batches:
            jax.tree.map(lambda one: one.delete(), batch)
        return valid(state)

    return call


def test_batches_may_be_a_function_of_the_update():
    assert quick(batches=lambda t: BATCHES[t % len(BATCHES)]).lr == quick().lr


def test_half_precision_stays_half():
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), START)
    step = lambda s, b, lr: sgd(s, jax.tree.map(lambda a: a.astype(jnp.bfloat16), b), lr)  # noqa: E731
    assert quick(step, half, budget=1.3).value["w"].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batches": iter(BATCHES)}, "can be gone through only once"),
        ({"batches": []}, "batches is empty"),
        ({"batches": {"x": X}}, "is not a list of batches"),
        ({"step": 3}, "step=3 is not a function"),
        ({"step": lambda s, b, lr: s}, r"return the next state and the training loss"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises((BadTypeError, BadValueError, TaskError), match=message):
        quick(**change)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("plateau()", "reacts to a metric, which no update of a pure step reports"),
        ("cosine() - 0.5", "at update 59, and a rate is not negative"),
    ],
)
def test_a_schedule_that_a_step_cannot_follow_is_refused(schedule, message):
    with pytest.raises(BadValueError, match=message):
        quick(schedule=schedule)
