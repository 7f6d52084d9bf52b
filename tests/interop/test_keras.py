import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.errors import BadTypeError, BadValueError
from etude.interop.keras import from_keras, to_keras
from etude.interop.parity import keras as parity
from etude.schedules import (
    KINDS,
    Clock,
    constant,
    cosine,
    exponential,
    linear,
    multi_step,
    parse,
    warmup,
)
from tests.interop.peers import few

keras = pytest.importorskip("keras")
peer = keras.optimizers.schedules

STEPS = range(0, 80, 3)
values = st.floats(0.01, 1.0)
lengths = st.integers(1, 40)
CLOCK = Clock(horizon=200, steps_per_epoch=20, samples_per_step=8, tokens_per_step=64)
ALL = sorted({text for row in KINDS.values() for text in row.examples})
EXAMPLES = [text for text in ALL if not parse(text).has_feedback]


def assert_same_as_peer(name, **options):
    theirs = getattr(peer, name)(**options)
    for ours in (getattr(parity, name)(**options), from_keras(theirs)):
        found = [float(theirs(t)) for t in STEPS]
        scale = max(map(abs, [*found, 1e-30]))
        for t, value in zip(STEPS, found, strict=True):
            assert abs(ours(t) - value) <= 3e-6 * scale, (t, ours(t), value, ours)
    assert from_keras(peer.serialize(theirs)) == ours


@few
@given(a=values, T=lengths, rate=st.floats(0.5, 1.1), staircase=st.booleans())
def test_exponential_and_inverse_time(a, T, rate, staircase):
    options = {"initial_learning_rate": a, "decay_steps": T, "staircase": staircase}
    assert_same_as_peer("ExponentialDecay", decay_rate=rate, **options)
    assert_same_as_peer("InverseTimeDecay", decay_rate=rate, **options)


@few
@given(edges=st.lists(st.integers(1, 60), min_size=1, max_size=4, unique=True), a=values)
def test_piecewise_constant(edges, a):
    heights = [a / (i + 1) for i in range(len(edges) + 1)]
    assert_same_as_peer("PiecewiseConstantDecay", boundaries=sorted(edges), values=heights)


@few
@given(a=values, T=lengths, end=values, power=st.sampled_from([0.5, 1.0, 2.0]), cycle=st.booleans())
def test_polynomial(a, T, end, power, cycle):
    assert_same_as_peer(
        "PolynomialDecay",
        initial_learning_rate=a,
        decay_steps=T,
        end_learning_rate=end,
        power=power,
        cycle=cycle,
    )


@few
@given(
    a=values,
    T=lengths,
    alpha=st.floats(0.0, 1.0),
    target=st.none() | values,
    W=st.integers(0, 20),
)
def test_cosine(a, T, alpha, target, W):
    assert_same_as_peer(
        "CosineDecay",
        initial_learning_rate=a,
        decay_steps=T,
        alpha=alpha,
        warmup_target=target,
        warmup_steps=W,
    )


@pytest.mark.parametrize("t_mul", [1.0, 2.0])
@pytest.mark.parametrize("m_mul", [1.0, 0.5])
def test_cosine_restarts(t_mul, m_mul):
    # 7 and 2: no boundary at which Keras's logarithm in float32 is a step off (see the next test)
    options = {"initial_learning_rate": 0.5, "first_decay_steps": 7, "alpha": 0.1}
    theirs = peer.CosineDecayRestarts(t_mul=t_mul, m_mul=m_mul, **options)
    ours = parity.CosineDecayRestarts(t_mul=t_mul, m_mul=m_mul, **options)
    starts = {7, 14, 21, 28, 35, 42, 49, 56, 63, 70, 77}
    for t in set(range(80)) - starts:
        assert abs(ours(t) - float(theirs(t))) <= 3e-6, t
    assert from_keras(theirs) == ours


@few
@given(T=st.integers(1, 50), m=st.integers(2, 5), n=st.integers(1, 8))
def test_restarts_are_exact_where_the_peer_takes_logarithms(T, m, n):
    start = T * (m**n - 1) // (m - 1)
    s = parity.CosineDecayRestarts(1.0, T, t_mul=float(m), m_mul=0.5)
    assert s(start) == pytest.approx(0.5**n, rel=1e-12)


@pytest.mark.parametrize("text", EXAMPLES)
def test_to_keras_is_the_schedule(text):
    s = parse(text).over(CLOCK)
    theirs = to_keras(s)
    steps = [0, 1, 7, 20, 50, 99, 100, 199, 200, 500]
    found = np.array([float(theirs(t)) for t in steps])
    assert np.allclose(found, [s(t) for t in steps], rtol=1e-6, atol=1e-7)
    loaded = peer.deserialize(peer.serialize(theirs))
    assert loaded.schedule == s == from_keras(theirs) == from_keras(peer.serialize(theirs))


def test_a_model_trains_and_is_saved_with_it(tmp_path):
    s = 0.1 * (warmup(2) >> cosine(8))
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(to_keras(s)), "mse")
    model.fit(np.ones((4, 3), "float32"), np.ones((4, 1), "float32"), epochs=3, verbose=0)
    assert float(model.optimizer.learning_rate) == pytest.approx(s(3), rel=1e-6)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer._learning_rate.schedule == s
    assert float(loaded.optimizer.learning_rate) == pytest.approx(s(3), rel=1e-6)


def test_a_long_schedule_is_saved_as_well():
    s = multi_step(tuple(range(1, 4_000)), 0.999)
    assert peer.deserialize(peer.serialize(to_keras(s))).schedule == s


@pytest.mark.parametrize("text", sorted(set(ALL) - set(EXAMPLES)))
@pytest.mark.parametrize("around", ["{}", "0.1 * {}", "warmup(5) >> 0.1 * {}", "({}).clip(0.1)"])
def test_what_reacts_to_a_metric_is_refused_with_the_way_out(text, around):
    with pytest.raises(BadValueError, match=r"Keras calls .* keras\.callbacks\.ReduceLROnPlateau"):
        to_keras(around.format(text))
    with pytest.raises(BadValueError, match="without a metric its value would never change"):
        peer.deserialize(
            {
                "registered_name": "etude>EtudeSchedule",
                "class_name": "EtudeSchedule",
                "module": None,
                "config": {"schedule": around.format(text)},
            }
        )


@pytest.mark.parametrize("s", [linear(10, 0.1, -0.1), exponential(0.5) - 0.25, constant(-1.0)])
def test_a_negative_rate_is_refused(s):
    with pytest.raises(BadValueError, match=r"out of bounds: give a number >= 0; .* \.clip"):
        to_keras(s)


def test_the_schedule_can_be_pickled():
    import pickle

    s = to_keras(0.1 * cosine(10))
    assert pickle.loads(pickle.dumps(s)).schedule == s.schedule


_JAX = """
import numpy as np, keras, jax
from etude.interop.keras import to_keras, from_keras
from etude.schedules import warmup, cosine, step, restarts
s = 0.1 * (warmup(5) >> cosine(20, floor=0.1)) * step(7, 0.5) * restarts(6, length_mult=2.0)
k = to_keras(s)
assert keras.backend.backend() == "jax"
found = [float(jax.jit(k)(t)) for t in range(40)]
assert np.allclose(found, [s(t) for t in range(40)], rtol=1e-5, atol=1e-8), found
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
model.compile(keras.optimizers.Adam(k), "mse")
model.fit(np.ones((8, 3), "float32"), np.ones((8, 1), "float32"), epochs=2, verbose=0)
assert abs(float(model.optimizer.learning_rate) - s(2)) < 1e-7
print("right")
"""


@pytest.mark.slow
def test_the_jax_backend_jits_it():
    env = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", _JAX], env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "right", done.stderr[-2_000:]


def test_a_backend_that_is_missing_is_explained():
    code = (
        "from etude.interop.keras import to_keras\nfrom etude.schedules import cosine\n"
        "try:\n    to_keras(cosine(9))\nexcept ImportError as error:\n    print(error)"
    )
    env = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert "keras is installed, but it needs tensorflow" in done.stdout
    assert "KERAS_BACKEND=torch" in done.stdout


class Mine(peer.LearningRateSchedule):
    def __call__(self, step):
        return 0.1


class Described(Mine):
    def get_config(self):
        return {}


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (Mine(), BadValueError, "Mine has no get_config"),
        (Described(), BadValueError, "Described is a class of your own"),
        ({"class_name": "Adam"}, BadValueError, "has no class_name and config"),
        (
            {"class_name": "ExponentialDecay", "config": {"rate": 1}},
            BadValueError,
            "config of ExponentialDecay cannot be read",
        ),
        (
            peer.CosineDecayRestarts(0.1, 10, t_mul=0.5),
            BadValueError,
            "length_mult is 0.5; it must be at least 1",
        ),
        (0.1, BadTypeError, "a float is not a schedule of Keras"),
    ],
)
def test_from_keras_refuses_with_the_reason(source, error, message):
    with pytest.raises(error, match=message):
        from_keras(source)


def test_an_unbound_schedule_is_refused():
    with pytest.raises(BadValueError, match=r"no length in steps yet: pass it as schedule.over"):
        to_keras(cosine())
    with pytest.raises(BadTypeError, match=r"schedule is 0\.1; it must be a schedule or its text"):
        to_keras(0.1)
