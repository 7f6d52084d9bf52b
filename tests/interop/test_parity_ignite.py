import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from etude.errors import BadTypeError, BadValueError
from etude.interop.parity import ignite as parity
from tests.interop.peers import assert_same, few, sgd

peer = pytest.importorskip("ignite.handlers.param_scheduler")

values = st.floats(0.01, 1.0)
sizes = st.integers(2, 15)
mults = st.sampled_from([1.0, 0.5, 1.5])


def events(scheduler, count=60):
    group = scheduler.optimizer.param_groups[0]
    found = []
    for _ in range(count):
        scheduler(None)
        found.append(float(group["lr"]))
    return found


def assert_same_as_peer(name, *args, **options):
    theirs = getattr(peer, name)(sgd(), "lr", *args, **options)
    assert_same(getattr(parity, name)(*args, **options), events(theirs))


@few
@given(a=values, b=values, size=sizes, m=mults, n=mults, monotonic=st.booleans())
def test_linear_cycles(a, b, size, m, n, monotonic):
    options = {"start_value_mult": m, "end_value_mult": n, "monotonic": monotonic}
    assert_same_as_peer("LinearCyclicalScheduler", a, b, size, **options)


@few
@given(a=values, b=values, size=sizes, m=mults, n=mults)
def test_cosine_cycles(a, b, size, m, n):
    assert_same_as_peer(
        "CosineAnnealingScheduler", a, b, size, start_value_mult=m, end_value_mult=n
    )


@few
@given(a=values, b=values, size=sizes, growth=st.integers(2, 3))
def test_growing_cosine_cycles(a, b, size, growth):
    assert_same_as_peer("CosineAnnealingScheduler", a, b, size, cycle_mult=growth)


@few
@given(a=values, b=values, size=sizes, W=st.integers(1, 6))
def test_cycles_with_a_warmup_each(a, b, size, W):
    assert_same_as_peer("CosineAnnealingScheduler", a, b, size, warmup_duration=W)
    assert_same_as_peer("LinearCyclicalScheduler", a, b, size, warmup_duration=W, monotonic=True)


@few
@given(points=st.lists(st.tuples(st.integers(0, 50), values), min_size=1, max_size=5))
def test_piecewise_linear(points):
    points = sorted(points, key=lambda p: p[0])
    assert_same_as_peer("PiecewiseLinear", points)


@few
@given(a=values, b=values, size=sizes, start=values, W=st.integers(2, 9), end=st.none() | values)
def test_warmup_before_a_schedule(a, b, size, start, W, end):
    inner = peer.CosineAnnealingScheduler(sgd(), "lr", a, b, size)
    inner.optimizer.param_groups[0]["lr"] = a  # ignite takes the live rate as the end
    theirs = peer.create_lr_scheduler_with_warmup(inner, start, W, end)
    ours = parity.create_lr_scheduler_with_warmup(
        parity.CosineAnnealingScheduler(a, b, size), start, W, end
    )
    group = inner.optimizer.param_groups[0]
    found = []
    for _ in range(40):
        theirs(None)
        found.append(float(group["lr"]))
    assert_same(ours, found)


def test_concat():
    optimizer = sgd()
    theirs = peer.ConcatScheduler(
        [
            peer.LinearCyclicalScheduler(optimizer, "lr", 0.0, 1.0, 8),
            peer.CosineAnnealingScheduler(optimizer, "lr", 1.0, 0.2, 4),
        ],
        durations=[4],
    )
    ours = parity.ConcatScheduler(
        [
            parity.LinearCyclicalScheduler(0.0, 1.0, 8),
            parity.CosineAnnealingScheduler(1.0, 0.2, 4),
        ],
        [4],
    )
    assert_same(ours, events(theirs, 20))


def test_torch_scheduler_after_a_warmup():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    inner = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    theirs = peer.create_lr_scheduler_with_warmup(inner, 0.0, 5)
    found = []
    for _ in range(20):
        theirs(None)
        found.append(float(optimizer.param_groups[0]["lr"]))
    from etude.interop.parity.torch import ExponentialLR

    ours = parity.create_lr_scheduler_with_warmup(ExponentialLR(0.1, 0.9), 0.0, 5)
    assert_same(ours, found)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: parity.CosineAnnealingScheduler(1.0, 0.0, 1), "cycle_size is 1; it must be"),
        (lambda: parity.CosineAnnealingScheduler(1.0, 0.0, 9, 1.5), "cycle_mult is 1.5; other"),
        (lambda: parity.LinearCyclicalScheduler(1.0, 0.0, 9, 2.0), "cycle_mult is 2.0; only 1"),
        (
            lambda: parity.LinearCyclicalScheduler(1.0, 0.0, 9, warmup_duration=2),
            "only possible with monotonic=True",
        ),
        (
            lambda: parity.CosineAnnealingScheduler(
                1.0, 0.0, 9, start_value_mult=0.5, warmup_duration=2
            ),
            "give one or the other",
        ),
        (lambda: parity.PiecewiseLinear([]), "milestones_values is empty"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(BadValueError, match=message):
        call()


def test_sizes_are_numbers():
    with pytest.raises(BadTypeError, match="cycle_size is True; it must be a whole number"):
        parity.CosineAnnealingScheduler(1.0, 0.0, True)
