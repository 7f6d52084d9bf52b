"""The schedule that is written for torch, optax and Keras gives the schedule's values."""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.errors import BadValueError
from etude.export.formula import JAX, KERAS, NUMPY, Library, formula
from etude.export.optax import optax_code
from etude.recipe import Recipe
from etude.schedules import KINDS, Clock, Schedule, parse, register
from etude.schedules.testing import schedules

CLOCK = Clock(horizon=200, steps_per_epoch=20, samples_per_step=8, tokens_per_step=64)
ALL = sorted({text for row in KINDS.values() for text in row.examples})
EXAMPLES = [text for text in ALL if not parse(text).has_feedback]
STEPS = [*range(0, 210, 3), 99, 199, 200, 500]


def written(schedule: Schedule, library: Library, **place: object):
    """Return the written function."""
    lines = "".join(f"    {line}\n" for line in formula(schedule, library))
    exec(f"def value(t):\n{lines}", place)
    return place["value"]


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_kind_is_written_for_numpy(text):
    schedule = parse(text).over(CLOCK)
    value = written(schedule, NUMPY, np=np)
    for t in STEPS:
        assert float(value(np.float64(t))) == pytest.approx(schedule(t), rel=1e-12, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(schedule=schedules(2), t=st.lists(st.integers(0, 6_000), min_size=1, max_size=6))
def test_every_composition_is_written_for_numpy(schedule, t):
    if schedule.has_feedback:
        return
    value = written(schedule, NUMPY, np=np)
    with np.errstate(all="ignore"):
        found = [float(value(np.float64(one))) for one in t]
    assert found == pytest.approx([schedule(one) for one in t], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_kind_is_written_for_optax_and_works_under_jit(text):
    jax = pytest.importorskip("jax")
    schedule = 0.01 * parse(text).over(CLOCK)
    value = written(schedule, JAX, jnp=jax.numpy)
    with jax.enable_x64(True):
        found = jax.jit(jax.vmap(value))(jax.numpy.asarray(STEPS, dtype=float))
        found = np.asarray(found) * np.ones(len(STEPS))
    wanted = np.array([schedule(t) for t in STEPS])
    assert np.allclose(found, wanted, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_kind_is_written_for_keras(text):
    keras = pytest.importorskip("keras")
    schedule = 0.01 * parse(text).over(CLOCK)
    value = written(schedule, KERAS, ops=keras.ops)
    with keras.device("cpu"):
        found = [float(value(keras.ops.cast(t, "float64"))) for t in STEPS]
    wanted = [schedule(t) for t in STEPS]
    assert found == pytest.approx(wanted, rel=1e-6, abs=1e-6 * max(map(abs, wanted)))


def test_what_is_used_twice_is_computed_once():
    lines = formula(parse("cosine(100)"), NUMPY)
    assert [line.partition("=")[0].strip() for line in lines[:-1]] == ["a"]
    assert lines[-1] == "return a * a"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("plateau()", r"schedule .*plateau\(\).* reacts to a metric.*export it as 'torch'"),
        ("warmup(5) >> 0.5 * plateau()", r"reacts to a metric, so it is no formula of the step"),
        ("function('exported_by_a_test')", r"function of your own that cannot be written as code"),
    ],
)
def test_what_is_no_formula_is_refused(text, said):
    register("exported_by_a_test", lambda t: 1.0, replace=True)
    with pytest.raises(BadValueError, match=said):
        optax_code(Recipe(schedule=text), 100)
