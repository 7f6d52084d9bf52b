import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.errors import BadValueError
from etude.interop.parity import transformers as parity
from tests.interop.peers import LR, assert_same, few, sgd, stepped

peer = pytest.importorskip("transformers.optimization")

warmups = st.integers(0, 20)
totals = st.integers(1, 60)
cycles = st.sampled_from([0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.3])
STEPS = 90


def assert_same_as_peer(name, tolerance=1e-12, **options):
    ours = getattr(parity, name)(LR, **options)
    assert_same(ours, stepped(getattr(peer, name)(sgd(), **options), STEPS), tolerance, peak=LR)


@few
@given(W=warmups)
def test_constant_with_warmup(W):
    assert_same_as_peer("get_constant_schedule")
    assert_same_as_peer("get_constant_schedule_with_warmup", num_warmup_steps=W)


@few
@given(W=warmups, T=totals)
def test_linear(W, T):
    assert_same_as_peer("get_linear_schedule_with_warmup", num_warmup_steps=W, num_training_steps=T)


@few
@given(W=warmups, T=totals, c=cycles)
def test_cosine(W, T, c):
    assert_same_as_peer(
        "get_cosine_schedule_with_warmup",
        num_warmup_steps=W,
        num_training_steps=T,
        num_cycles=c,
    )


@few
@given(W=warmups, T=totals, c=st.integers(1, 7) | st.just(2.5))
def test_hard_restarts(W, T, c):
    ours = parity.get_cosine_with_hard_restarts_schedule_with_warmup(LR, W, T, c)
    theirs = stepped(peer.get_cosine_with_hard_restarts_schedule_with_warmup(sgd(), W, T, c), STEPS)
    left = max(1, T - W)
    for t, value in enumerate(theirs):
        # transformers misses a restart by rounding where (t − W)·c/left is whole but not exact.
        exact = (t - W) * c % left == 0 and W < t < T
        assert abs(ours(t) - (LR if exact else value)) <= 1e-12 * LR


@few
@given(W=warmups, T=totals, end=st.floats(0.0, 0.2), power=st.floats(0.3, 3.0))
def test_polynomial(W, T, end, power):
    if W < T:
        assert_same_as_peer(
            "get_polynomial_decay_schedule_with_warmup",
            num_warmup_steps=W,
            num_training_steps=T,
            lr_end=end,
            power=power,
        )


def test_polynomial_without_a_decay_ends_after_its_warmup():
    s = parity.get_polynomial_decay_schedule_with_warmup(LR, 10, 10, lr_end=0.1)
    assert s(9) == pytest.approx(0.9 * LR)
    assert s(10) == pytest.approx(0.1)


@few
@given(W=warmups, tau=st.none() | st.integers(20, 50))
def test_inverse_sqrt(W, tau):
    assert_same_as_peer("get_inverse_sqrt_schedule", num_warmup_steps=W, timescale=tau)


@few
@given(W=warmups, T=totals, c=cycles, floor=st.floats(0.0, 1.0), rate=st.booleans())
def test_cosine_with_min_lr(W, T, c, floor, rate):
    assert_same_as_peer(
        "get_cosine_with_min_lr_schedule_with_warmup",
        num_warmup_steps=W,
        num_training_steps=T,
        num_cycles=c,
        **({"min_lr_rate": floor} if rate else {"min_lr": floor * LR}),
    )


@few
@given(
    W=warmups, T=totals, c=cycles, floor=st.floats(0.0, 1.0), start=st.none() | st.floats(0.0, 1.0)
)
def test_cosine_warmup_with_min_lr(W, T, c, floor, start):
    assert_same_as_peer(
        "get_cosine_with_min_lr_schedule_with_warmup_lr_rate",
        num_warmup_steps=W,
        num_training_steps=T,
        num_cycles=c,
        min_lr_rate=floor,
        warmup_lr_rate=start,
    )


@few
@given(
    W=warmups,
    D=st.integers(0, 20),
    T=st.integers(0, 60),
    stable=st.none() | st.integers(0, 20),
    rise=st.sampled_from(parity.TYPES),
    fall=st.sampled_from(parity.TYPES),
    floor=st.floats(0.0, 1.0),
    c=cycles,
)
def test_wsd(W, D, T, stable, rise, fall, floor, c):
    if stable is None and T < D:
        return  # transformers then decays from before the first step
    options = {"num_stable_steps": stable} if stable is not None else {"num_training_steps": T}
    assert_same_as_peer(
        "get_wsd_schedule",
        num_warmup_steps=W,
        num_decay_steps=D,
        warmup_type=rise,
        decay_type=fall,
        min_lr_ratio=floor,
        num_cycles=c,
        **options,
    )


def test_every_function_has_a_parity_constructor():
    made = {f.__name__ for f in peer.TYPE_TO_SCHEDULER_FUNCTION.values()}
    assert {name for name in made if not hasattr(parity, name)} == {"get_greedy_schedule"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: parity.get_wsd_schedule(LR, 1, 2),
            "num_training_steps and num_stable_steps are both None",
        ),
        (
            lambda: parity.get_wsd_schedule(LR, 1, 2, 9, decay_type="sqrt"),
            "unknown decay_type 'sqrt': did you mean '1-sqrt'",
        ),
        (
            lambda: parity.get_wsd_schedule(LR, 1, 2, 9, warmup_type="flat"),
            "unknown warmup_type 'flat'",
        ),
        (
            lambda: parity.get_cosine_with_min_lr_schedule_with_warmup(LR, 1, 9),
            "min_lr is None and min_lr_rate None: give exactly one",
        ),
        (
            lambda: parity.get_polynomial_decay_schedule_with_warmup(0.1, 1, 9, lr_end=0.2),
            "lr_end is 0.2; it must be below lr, 0.1",
        ),
        (
            lambda: parity.get_cosine_with_hard_restarts_schedule_with_warmup(LR, 1, 9, 0),
            "num_cycles is 0; it must be above 0",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(BadValueError, match=message):
        call()
