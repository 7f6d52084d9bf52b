import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler as peer

from etude.errors import BadValueError
from etude.interop.parity import torch as parity
from etude.schedules import constant, parse, warmup
from tests.interop.peers import LR, adamw, assert_same, few, sgd, stepped

lengths = st.integers(1, 40)
gammas = st.floats(0.1, 1.2)
shares = st.floats(0.05, 0.95)
floors = st.floats(0.0, 0.2)


@few
@given(factor=st.floats(0.01, 1.0), total=lengths)
def test_constant(factor, total):
    assert_same(
        parity.ConstantLR(LR, factor, total), stepped(peer.ConstantLR(sgd(), factor, total), 50)
    )


@few
@given(start=st.floats(0.01, 1.0), end=st.floats(0.0, 1.0), total=lengths)
def test_linear(start, end, total):
    ours = parity.LinearLR(LR, start, end, total)
    assert_same(ours, stepped(peer.LinearLR(sgd(), start, end, total), 50))


@few
@given(gamma=gammas)
def test_exponential(gamma):
    assert_same(parity.ExponentialLR(LR, gamma), stepped(peer.ExponentialLR(sgd(), gamma), 50))


@few
@given(size=lengths, gamma=gammas)
def test_step(size, gamma):
    assert_same(parity.StepLR(LR, size, gamma), stepped(peer.StepLR(sgd(), size, gamma), 90))


@few
@given(milestones=st.lists(st.integers(-3, 60), max_size=6), gamma=gammas)
def test_multi_step(milestones, gamma):
    ours = parity.MultiStepLR(LR, milestones, gamma)
    theirs = peer.MultiStepLR(sgd(), [m for m in milestones if m > 0], gamma)
    if 0 not in milestones:
        assert_same(ours, stepped(theirs, 70))


def test_multi_step_at_0_acts_at_0():
    assert_same(
        parity.MultiStepLR(LR, [0, 3], 0.5), stepped(peer.MultiStepLR(sgd(), [0, 3], 0.5), 9)
    )


@few
@given(total=lengths, power=st.floats(0.2, 3.0))
def test_polynomial(total, power):
    ours = parity.PolynomialLR(LR, total, power)
    assert_same(ours, stepped(peer.PolynomialLR(sgd(), total, power), 50))


@few
@given(T=lengths, floor=floors)
def test_cosine_rises_again_as_torch_does(T, floor):
    ours = parity.CosineAnnealingLR(LR, T, floor)
    # torch's recursion loses digits where its cosine is at the bottom; its closed form does not.
    theirs = peer.CosineAnnealingLR(sgd(), T, floor)
    assert_same(ours, stepped(theirs, T + 1))
    closed = []
    for t in range(4 * T):
        theirs.last_epoch = t
        closed.append(theirs._get_closed_form_lr()[0])
    assert_same(ours, closed)


@few
@given(T0=st.integers(1, 9), mult=st.integers(1, 4), floor=floors)
def test_warm_restarts(T0, mult, floor):
    ours = parity.CosineAnnealingWarmRestarts(LR, T0, mult, floor)
    assert_same(ours, stepped(peer.CosineAnnealingWarmRestarts(sgd(), T0, mult, floor), 120))


@few
@given(
    up=st.integers(1, 9),
    down=st.none() | st.integers(1, 9),
    mode=st.sampled_from(["triangular", "triangular2", "exp_range"]),
    gamma=st.floats(0.8, 1.05),
)
def test_cyclic(up, down, mode, gamma):
    theirs = peer.CyclicLR(sgd(), 0.1, 0.7, up, down, mode, gamma)
    ours = parity.CyclicLR(0.1, 0.7, up, down, mode, gamma)
    moved = parity.CyclicLR_momentum(0.8, 0.9, up, down, mode, gamma)
    lrs, momenta = [], []
    for _ in range(60):
        group = theirs.optimizer.param_groups[0]
        lrs.append(group["lr"])
        momenta.append(group["momentum"])
        theirs.optimizer.step()
        theirs.step()
    assert_same(ours, lrs)
    assert_same(moved, momenta)


@few
@given(
    total=st.integers(2, 60),
    pct=st.floats(0.0, 1.0),
    anneal=st.sampled_from(["cos", "linear"]),
    three=st.booleans(),
    div=st.floats(1.0, 50.0),
    final=st.floats(1.0, 1e4),
)
def test_one_cycle_and_its_momentum(total, pct, anneal, three, div, final):
    ends = [pct * total - 1] + ([2 * pct * total - 2] if three else [])
    if any(abs(end) < 1e-9 or abs(end - (total - 1)) < 1e-9 for end in ends):
        return  # torch divides by zero there
    optimizer = adamw()
    theirs = peer.OneCycleLR(
        optimizer, LR, total, None, None, pct, anneal, True, 0.8, 0.9, div, final, three
    )
    lrs, momenta = [], []
    for t in range(total):
        lrs.append(optimizer.param_groups[0]["lr"])
        momenta.append(optimizer.param_groups[0]["betas"][0])
        if t + 1 < total:
            optimizer.step()
            theirs.step()
    ours = parity.OneCycleLR(LR, total, pct, anneal, div, final, three)
    assert_same(ours, lrs, peak=LR)
    assert_same(parity.OneCycleLR_momentum(total, pct, anneal, 0.8, 0.9, three), momenta)


@few
@given(
    metrics=st.lists(st.floats(0, 5) | st.just(float("nan")), min_size=1, max_size=40),
    mode=st.sampled_from(["min", "max"]),
    threshold_mode=st.sampled_from(["rel", "abs"]),
    factor=st.floats(0.1, 0.9),
    patience=st.integers(0, 3),
    threshold=st.floats(0.0, 0.3),
    cooldown=st.integers(0, 3),
    floor=st.floats(0.0, 0.4),
    eps=st.sampled_from([0.0, 1e-8, 0.02]),
)
def test_plateau(metrics, mode, threshold_mode, factor, patience, threshold, cooldown, floor, eps):
    options = (mode, factor, patience, threshold, threshold_mode, cooldown, floor, eps)
    theirs = peer.ReduceLROnPlateau(sgd(), *options)
    values = [LR]
    for metric in metrics:
        theirs.step(metric)
        values.append(theirs.optimizer.param_groups[0]["lr"])
    ours = parity.ReduceLROnPlateau(LR, *options).given(list(enumerate(metrics, start=1)))
    assert_same(ours, values)


@few
@given(
    first=st.integers(1, 9),
    second=st.integers(1, 9),
    factor=st.floats(0.05, 1.0),
    gamma=st.floats(0.5, 1.0),
    T=st.integers(20, 30),
)
def test_sequential(first, second, factor, gamma, T):
    optimizer = sgd()
    parts = [
        peer.LinearLR(optimizer, factor, total_iters=first),
        peer.ExponentialLR(optimizer, gamma),
        peer.CosineAnnealingLR(optimizer, T, 0.01),
    ]
    milestones = [first, first + second]
    theirs = stepped(peer.SequentialLR(optimizer, parts, milestones), first + second + T)
    ours = parity.SequentialLR(
        [
            parity.LinearLR(LR, factor, total_iters=first),
            parity.ExponentialLR(LR, gamma),
            parity.CosineAnnealingLR(LR, T, 0.01),
        ],
        milestones,
    )
    assert_same(ours, theirs)


@few
@given(factor=st.floats(0.05, 1.0), total=lengths, gamma=st.floats(0.8, 1.0), every=lengths)
def test_chained(factor, total, gamma, every):
    optimizer = sgd()
    parts = [
        peer.ConstantLR(optimizer, factor, total),
        peer.ExponentialLR(optimizer, gamma),
        peer.StepLR(optimizer, every, 0.5),
    ]
    theirs = stepped(peer.ChainedScheduler(parts), 50)
    ours = parity.ChainedScheduler(
        [
            parity.ConstantLR(LR, factor, total),
            parity.ExponentialLR(1.0, gamma),
            parity.StepLR(1.0, every, 0.5),
        ]
    )
    assert_same(ours, theirs)


def test_every_class_of_torch_has_a_parity_constructor():
    own = {"LambdaLR", "MultiplicativeLR", "LRScheduler"}  # a function of the user's own
    assert {name for name in peer.__all__ if not hasattr(parity, name)} == own


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: parity.CyclicLR(0.1, 1.0, mode="triangle"), "did you mean 'triangular'"),
        (lambda: parity.OneCycleLR(0.1, 0), "total_steps is 0; it must be a whole number"),
        (lambda: parity.OneCycleLR(0.1, 10, 1.5), "pct_start is 1.5; it must be a share"),
        (lambda: parity.OneCycleLR(0.1, 10, anneal_strategy="sin"), "unknown anneal_strategy"),
        (lambda: parity.OneCycleLR(0.1, 10, div_factor=0), "div_factor is 0; it must be above 0"),
        (lambda: parity.OneCycleLR(0.1, 10, final_div_factor=0), "final_div_factor is 0; it must"),
        (lambda: parity.SequentialLR([constant()], [3]), "milestones has 1 steps for 1"),
        (lambda: parity.SequentialLR([constant()] * 3, [3, 2]), "milestones has 2 after 3"),
        (lambda: parity.ChainedScheduler([]), "schedulers is empty"),
        (lambda: parity.StepLR(0.1, 0), "every is 0; it must be above 0"),
        (lambda: parity.StepLR(float("nan"), 3), "factor is nan; it must be a finite number"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(BadValueError, match=message):
        call()


def test_deviations_where_torch_is_wrong():
    assert parity.ConstantLR(LR, 0.5, total_iters=0)(0) == LR
    assert parity.ConstantLR(LR, 0.0, total_iters=2)(2) == LR
    assert parity.LinearLR(LR, 0.5, total_iters=0)(0) == LR
    assert parity.OneCycleLR(LR, 10, pct_start=0.1)(0) == LR
    assert parity.OneCycleLR(LR, 10)(10) == parity.OneCycleLR(LR, 10)(9)
    late = parity.OneCycleLR(LR, 20, pct_start=0.6, three_phase=True)
    assert late(19) == late(20) == late(50) < LR
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        peer.OneCycleLR(sgd(), LR, 10, pct_start=0.1)


def test_what_they_return_is_a_value():
    s = warmup(5) * parity.OneCycleLR(0.1, 100)
    assert parse(repr(s)) == s
    assert torch.equal(
        s(torch.arange(5)), torch.tensor([s(t) for t in range(5)], dtype=s(torch.arange(5)).dtype)
    )
