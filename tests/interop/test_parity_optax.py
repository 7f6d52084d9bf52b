import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.errors import BadValueError
from etude.interop.parity import optax as parity
from tests.interop.peers import assert_same, few

peer = pytest.importorskip("optax")

STEPS = 70
lengths = st.integers(1, 40)
values = st.floats(0.01, 1.0)
begins = st.integers(0, 15)
scales = st.dictionaries(st.integers(1, 60), st.floats(0.1, 2.0), max_size=4)


def assert_same_as_peer(name, *args, **options):
    theirs = getattr(peer, name)(*args, **options)
    ours = getattr(parity, name)(*args, **options)
    expected = [float(theirs(jnp.asarray(t))) for t in range(0, STEPS, 5)]
    steps = dict(zip(range(0, STEPS, 5), expected, strict=True))
    scale = max(map(abs, [*expected, ours(0), 1e-30]))
    for t, value in steps.items():
        assert abs(ours(t) - value) <= 2e-6 * scale, (t, ours(t), value, ours)


@few
@given(a=values, b=values, power=st.sampled_from([0.5, 1, 2, 3]), T=st.integers(0, 40), B=begins)
def test_polynomial_and_linear(a, b, power, T, B):
    assert_same_as_peer("constant_schedule", a)
    assert_same_as_peer("polynomial_schedule", a, b, power, T, B)
    assert_same_as_peer("linear_schedule", a, b, T, B)


@few
@given(a=values, scales=scales)
def test_piecewise_constant(a, scales):
    assert_same_as_peer("piecewise_constant_schedule", a, scales)


@few
@given(
    a=values,
    T=st.integers(1, 20),
    rate=st.floats(0.3, 1.2),
    B=begins,
    staircase=st.booleans(),
    end=st.none() | values,
)
def test_exponential_decay(a, T, rate, B, staircase, end):
    assert_same_as_peer("exponential_decay", a, T, rate, B, staircase, end)


@few
@given(a=values, T=lengths, alpha=st.floats(0.0, 1.5), exponent=st.floats(0.5, 3.0))
def test_cosine_decay(a, T, alpha, exponent):
    assert_same_as_peer("cosine_decay_schedule", a, T, alpha, exponent)


@few
@given(
    a=values,
    b=values,
    W=st.integers(1, 20),
    T=lengths,
    end=values,
    rate=st.floats(0.5, 0.9),
    B=begins,
)
def test_warmups(a, b, W, T, end, rate, B):
    assert_same_as_peer("warmup_constant_schedule", a, b, W)
    assert_same_as_peer("warmup_cosine_decay_schedule", a, b, W, W + T, end, 1.5)
    assert_same_as_peer(
        "warmup_exponential_decay_schedule", a, b, W, T, rate, B, True, min(end, 0.1)
    )


@few
@given(
    cycles=st.lists(
        st.tuples(values, values, st.integers(0, 5), st.integers(6, 20)), min_size=1, max_size=4
    )
)
def test_sgdr(cycles):
    names = ("init_value", "peak_value", "warmup_steps", "decay_steps")
    assert_same_as_peer("sgdr_schedule", [dict(zip(names, cycle, strict=True)) for cycle in cycles])


@few
@given(kind=st.sampled_from(["linear", "cosine"]), a=values, scales=scales)
def test_piecewise_interpolate(kind, a, scales):
    assert_same_as_peer("piecewise_interpolate_schedule", kind, a, scales)


@few
@given(
    T=st.integers(2, 60),
    peak=values,
    start=st.floats(0.1, 0.5),
    final=st.floats(0.6, 0.9),
    div=st.floats(2.0, 30.0),
)
def test_onecycles(T, peak, start, final, div):
    assert_same_as_peer("cosine_onecycle_schedule", T, peak, start, div, 100.0)
    if len({int(start * T), int(final * T), T}) == 3:
        assert_same_as_peer("linear_onecycle_schedule", T, peak, start, final, div, 100.0)


@pytest.mark.parametrize(
    "options",
    [
        {"factor": 0.5, "patience": 1, "rtol": 0.1},
        {"factor": 0.25, "patience": 2, "rtol": 0.1, "cooldown": 1, "min_scale": 0.2},
        {"factor": 0.5, "patience": 3, "rtol": 0.0, "atol": 0.5, "cooldown": 2},
    ],
)
def test_reduce_on_plateau(options):
    theirs = peer.contrib.reduce_on_plateau(**options)
    params = {"w": jnp.zeros(1)}
    update = jax.jit(lambda state, value: theirs.update(params, state, value=value)[1])

    @few
    @given(metrics=st.lists(st.integers(0, 40), min_size=1, max_size=30))
    def agrees(metrics):
        state, expected = theirs.init(params), [1.0]
        for metric in metrics:
            state = update(state, metric / 8)
            expected.append(float(state.scale))
        log = [(t, metric / 8) for t, metric in enumerate(metrics, start=1)]
        assert_same(parity.reduce_on_plateau(**options).given(log), expected, 1e-6)

    agrees()


def test_join_agrees_and_refuses_what_optax_drops():
    ours = [parity.linear_schedule(0.0, 1.0, 10), parity.constant_schedule(0.5)]
    theirs = [peer.linear_schedule(0.0, 1.0, 10), peer.constant_schedule(0.5)]
    joined = peer.join_schedules(theirs, [7])
    assert_same(parity.join_schedules(ours, [7]), [float(joined(t)) for t in range(20)], 1e-6)
    with pytest.raises(BadValueError, match="boundaries has 2 steps for 2 schedules"):
        parity.join_schedules(ours, [7, 9])
    with pytest.raises(BadValueError, match="boundaries has 3 after 7"):
        parity.join_schedules([*ours, ours[1]], [7, 3])


def test_deviations_where_optax_is_wrong():
    assert parity.warmup_constant_schedule(0.1, 1.0, 0)(0) == 1.0
    assert float(peer.warmup_constant_schedule(0.1, 1.0, 0)(5)) == pytest.approx(0.1)
    s = parity.piecewise_interpolate_schedule("linear", 1.0, {4: 0.5})
    assert s(np.arange(6)).tolist() == [1.0, 0.875, 0.75, 0.625, 0.5, 0.5]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: parity.cosine_decay_schedule(0.1, 0), "decay_steps is 0; it must be above 0"),
        (
            lambda: parity.warmup_cosine_decay_schedule(0.0, 0.1, 10, 10),
            "decay_steps is 10, which includes the warmup of 10 steps",
        ),
        (
            lambda: parity.piecewise_interpolate_schedule("cubic", 0.1),
            "unknown interpolate_type 'cubic'",
        ),
        (
            lambda: parity.piecewise_constant_schedule(0.1, {3: -1.0}),
            "the scale at 3 is -1.0; it must be at least 0",
        ),
        (lambda: parity.cosine_onecycle_schedule(0, 0.1), "transition_steps is 0"),
        (
            lambda: parity.cosine_onecycle_schedule(10, 0.1, div_factor=0),
            "div_factor is 0; it must be above 0",
        ),
        (
            lambda: parity.linear_onecycle_schedule(10, 0.1, final_div_factor=0),
            "final_div_factor is 0; it must be above 0",
        ),
        (lambda: parity.reduce_on_plateau(accumulation_size=2), "report the means"),
        (lambda: parity.reduce_on_plateau(atol=0.1), "give exactly one above 0"),
        (lambda: parity.reduce_on_plateau(patience=0), "patience is 0; it must be at least 1"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(BadValueError, match=message):
        call()
