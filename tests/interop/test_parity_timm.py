"""Parity with timm's schedulers, where timm is installed.

Its scheduler package stands alone, while timm as a whole needs torchvision, so only that package
is imported here.
"""

import importlib
import importlib.util
import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.errors import BadValueError
from etude.interop.parity import timm as parity
from tests.interop.peers import LR, assert_same, few, sgd

STEPS = 70
warmups = st.integers(0, 15)
lengths = st.integers(2, 40)
prefixes = st.booleans()
floors = st.floats(0.0, 0.1)


@pytest.fixture(scope="module")
def peer():
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("timm is not installed")
    alone = types.ModuleType("timm")
    alone.__path__ = list(spec.submodule_search_locations)
    before = {name: m for name, m in sys.modules.items() if name.partition(".")[0] == "timm"}
    sys.modules["timm"] = alone
    try:
        yield importlib.import_module("timm.scheduler")
    finally:
        for name in [n for n in sys.modules if n.partition(".")[0] == "timm"]:
            del sys.modules[name]
        sys.modules.update(before)


def assert_same_as_peer(peer, name, *args, near=(), **options):
    theirs = getattr(peer, name)(sgd(), *args, **options)
    found = {}
    for t in range(STEPS):
        theirs.step(t)
        if t not in near:
            found[t] = theirs.optimizer.param_groups[0]["lr"]
    ours = getattr(parity, name)(LR, *args, **options)
    for t, value in found.items():
        assert abs(ours(t) - value) <= 1e-12 * LR, (t, ours(t), value, ours)


@few
@given(T=lengths, W=warmups, prefix=prefixes, floor=floors, limit=st.integers(0, 3))
def test_cosine_poly_and_tanh(peer, T, W, prefix, floor, limit):
    options = {
        "lr_min": floor,
        "cycle_limit": limit,
        "warmup_t": W,
        "warmup_lr_init": 0.01,
        "warmup_prefix": prefix,
    }
    assert_same_as_peer(peer, "CosineLRScheduler", T, **options)
    assert_same_as_peer(peer, "PolyLRScheduler", T, power=0.7, k_decay=1.3, **options)
    assert_same_as_peer(peer, "TanhLRScheduler", T, lb=-5.0, ub=4.0, **options)


@few
@given(T=st.integers(2, 9), m=st.sampled_from([1.0, 2.0, 3.0]), decay=st.floats(0.3, 0.9))
def test_cycles_that_grow_and_shrink(peer, T, m, decay):
    starts = {sum(int(T * m**j) for j in range(i)) for i in range(1, 9)}
    options = {"cycle_mul": m, "cycle_decay": decay, "cycle_limit": 3, "lr_min": 0.01}
    # timm's logarithm may be a cycle off exactly at a restart
    assert_same_as_peer(peer, "CosineLRScheduler", T, near=starts if m != 1.0 else (), **options)
    assert_same_as_peer(peer, "PolyLRScheduler", T, near=starts if m != 1.0 else (), **options)


@few
@given(T=lengths, rate=st.floats(0.2, 1.0), W=warmups, prefix=prefixes)
def test_step_and_multi_step(peer, T, rate, W, prefix):
    options = {"warmup_t": W, "warmup_lr_init": 0.01, "warmup_prefix": prefix}
    assert_same_as_peer(peer, "StepLRScheduler", T, rate, **options)
    assert_same_as_peer(peer, "MultiStepLRScheduler", [0, T, T + 3], rate, **options)


@few
@given(
    T=st.integers(5, 40),
    share=st.floats(0.1, 1.0),
    W=st.integers(1, 15),
    floor=floors,
    stable=st.sampled_from(["constant", "rsqrt", "power"]),
    decay=st.sampled_from(["linear", "1-sqrt", "cosine", "power", "exp"]),
)
def test_wsd(peer, T, share, W, floor, stable, decay):
    assert_same_as_peer(
        peer,
        "WSDLRScheduler",
        T,
        max(1, int(share * T)),
        lr_min=floor,
        stable_fn=stable,
        stable_power=0.8,
        decay_fn=decay,
        decay_power=1.7,
        warmup_t=W,
        warmup_lr_init=0.01,
    )


@pytest.mark.filterwarnings("ignore:PlateauLRScheduler is deprecated")
@few
@given(metrics=st.lists(st.floats(0, 3), min_size=1, max_size=30), W=st.integers(0, 5))
def test_plateau(peer, metrics, W):
    options = {"decay_rate": 0.5, "patience_t": 1, "cooldown_t": 1, "warmup_t": W}
    theirs = peer.PlateauLRScheduler(sgd(), **options)
    values = [theirs.optimizer.param_groups[0]["lr"]]
    for t, metric in enumerate(metrics, start=1):
        theirs.step(t, metric)
        values.append(theirs.optimizer.param_groups[0]["lr"])
    ours = parity.PlateauLRScheduler(LR, **options).given(list(enumerate(metrics, start=1)))
    assert_same(ours, values)


def test_by_default_the_rate_drops_after_the_warmup_as_in_timm():
    dropped = parity.CosineLRScheduler(1.0, 20, warmup_t=10)
    meant = parity.CosineLRScheduler(1.0, 20, warmup_t=10, warmup_prefix=True)
    assert (dropped(9), dropped(10)) == (pytest.approx(0.9), pytest.approx(0.5))
    assert (meant(9), meant(10)) == (pytest.approx(0.9), 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: parity.WSDLRScheduler(1.0, 9, 10), "decay_t is 10; it must be above 0 and at mo"),
        (lambda: parity.WSDLRScheduler(1.0, 9, 2, decay_fn="sqrt"), "did you mean '1-sqrt'"),
        (lambda: parity.WSDLRScheduler(1.0, 9, 2, stable_fn="flat"), "unknown stable_fn 'flat'"),
        (
            lambda: parity.CosineLRScheduler(1.0, 9, cycle_mul=2.0, cycle_limit=99),
            "cycle_limit is 99; it must be at most 64",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(BadValueError, match=message):
        call()
