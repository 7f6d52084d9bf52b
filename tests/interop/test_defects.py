"""Defects that users met in other schedulers: one test each that ours does not have it."""

import copy
import pickle
import warnings
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounter
from torch.optim import lr_scheduler as peer

from etude.errors import BadValueError
from etude.interop.optax import to_optax
from etude.interop.parity import optax as optax_parity
from etude.interop.parity import torch as parity
from etude.interop.parity import transformers as hf_parity
from etude.interop.torch import Scheduler
from etude.schedules import (
    Clock,
    constant,
    cosine,
    exponential,
    linear,
    plateau,
    restarts,
    warmup,
)
from tests.interop.peers import adamw, few, sgd


def rate(optimizer, group=0):
    return optimizer.param_groups[group]["lr"]


# ---- torch SequentialLR --------------------------------------------------------------------

RISE = 0.1 * (linear(4, start=0.1, end=1.0) >> exponential(0.9))


@pytest.mark.parametrize("build_first", [True, False])
@pytest.mark.parametrize("optimizer_first", [True, False])
def test_a_join_resumes_at_the_right_rate_in_any_order(build_first, optimizer_first):
    """Torch gives .010 where .0775 is right, if the optimizer is loaded before it is built."""
    optimizer = sgd()
    scheduler = Scheduler(optimizer, lr=RISE)
    for _ in range(3):
        scheduler.step()
    saved = copy.deepcopy(optimizer.state_dict()), scheduler.state_dict()
    assert rate(optimizer) == pytest.approx(0.0775)

    optimizer = sgd()
    if not build_first:
        optimizer.load_state_dict(saved[0])
    scheduler = Scheduler(optimizer, lr=RISE)
    if build_first and optimizer_first:
        optimizer.load_state_dict(saved[0])
    scheduler.load_state_dict(saved[1])
    if build_first and not optimizer_first:
        optimizer.load_state_dict(saved[0])
    assert rate(optimizer) == pytest.approx(0.0775)
    scheduler.step()
    assert rate(optimizer) == pytest.approx(0.1)


@few
@given(t=st.integers(0, 100))
def test_starting_in_the_middle_is_right(t):
    """Torch's `last_epoch=N` is wrong for a SequentialLR."""
    optimizer = sgd()
    Scheduler(optimizer, lr=RISE).seek(t)
    stepped = Scheduler(sgd(), lr=RISE)
    for _ in range(t):
        stepped.step()
    assert rate(optimizer) == rate(stepped.optimizer)


def test_joining_a_one_cycle_overwrites_nothing():
    """Torch's OneCycleLR changes initial_lr and momentum when it is built to be wrapped."""
    optimizer = sgd(0.3)
    s = constant(0.3, length=5) >> parity.OneCycleLR(0.7, 50)
    Scheduler(optimizer, lr=s)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["initial_lr"], group["momentum"]) == (0.3, 0.3, 0.9)


def test_a_plateau_may_follow_a_warmup():
    """Torch's SequentialLR refuses a plateau."""
    optimizer = sgd()
    scheduler = Scheduler(optimizer, lr=0.1 * (warmup(3) >> plateau(factor=0.5, patience=0)))
    found = []
    for _ in range(6):
        found.append(rate(optimizer))
        scheduler.step(1.0)
    assert found == pytest.approx([0.0, 0.1 / 3, 0.2 / 3, 0.1, 0.05, 0.025])


# ---- torch load_state_dict, chains, one-cycle, groups ----------------------------------------


def test_loading_a_state_sets_the_rate():
    """Torch leaves the optimizer's rate as it is until the next step."""
    saved = Scheduler(sgd(), lr=0.1 * cosine(100))
    saved.seek(60)
    optimizer = sgd()
    Scheduler(optimizer, lr=0.1 * cosine(100)).load_state_dict(saved.state_dict())
    assert rate(optimizer) == 0.1 * cosine(100)(60)


def test_loading_a_state_does_not_replace_a_new_length_silently():
    """Torch takes T_max from the state."""
    saved = Scheduler(sgd(), lr=parity.CosineAnnealingLR(0.1, T_max=100))
    other = Scheduler(sgd(), lr=parity.CosineAnnealingLR(0.1, T_max=200))
    with pytest.raises(BadValueError, match="length of cosine is 200, was 100"):
        other.load_state_dict(saved.state_dict())


@few
@given(T=st.integers(2, 40), floor=st.floats(0.0, 0.5), gamma=st.floats(0.5, 1.0))
def test_a_cosine_times_an_exponential_is_never_negative(T, floor, gamma):
    """Torch's ChainedScheduler of the two goes below 0 where the cosine has a floor."""
    s = 0.1 * cosine(T, floor=floor) * exponential(gamma)
    assert min(s(t) for t in range(3 * T)) >= 0.0


def test_torch_does_go_negative_there():
    optimizer = sgd(0.1)
    chain = peer.ChainedScheduler(
        [peer.CosineAnnealingLR(optimizer, 10, eta_min=0.05), peer.ExponentialLR(optimizer, 0.5)]
    )
    found = []
    for _ in range(30):
        optimizer.step()
        chain.step()
        found.append(rate(optimizer))
    assert min(found) < 0.0  # so the test above guards against something


@few
@given(T=st.integers(4, 60), anneal=st.sampled_from(["cos", "linear"]), three=st.booleans())
def test_one_cycle_stays_at_its_end(T, anneal, three):
    """Torch allows one step more, in which the rate rebounds."""
    s = parity.OneCycleLR(0.1, T, anneal_strategy=anneal, three_phase=three)
    assert s(T) == s(T - 1) == s(10 * T)


def test_a_one_cycle_may_start_at_its_peak():
    """Torch divides by zero where pct_start·T is 1."""
    s = parity.OneCycleLR(0.1, 10, pct_start=0.1)
    assert (s(0), s(9)) == (0.1, pytest.approx(4e-7))


def test_groups_may_be_added_later():
    """Torch raises, or leaves the new group at its own rate."""
    optimizer = sgd()
    scheduler = Scheduler(optimizer, lr=0.1 * cosine(100))
    scheduler.seek(50)
    optimizer.add_param_group({"params": [torch.zeros(1)]})
    assert rate(optimizer, 1) == pytest.approx(0.05)
    scheduler.step()
    assert rate(optimizer, 1) == rate(optimizer, 0) == 0.1 * cosine(100)(51)


# ---- restart boundaries ----------------------------------------------------------------------


@few
@given(T=st.integers(1, 1_000), m=st.integers(2, 5), n=st.integers(0, 12))
def test_no_restart_is_a_step_early_or_late(T, m, n):
    """Torch's `step(epoch)` and timm's `cycle_mul` find the cycle through a logarithm."""
    start = T * (m**n - 1) // (m - 1)
    s = parity.CosineAnnealingWarmRestarts(1.0, T, m)
    scheduler = Scheduler(sgd(), lr=s)
    scheduler.seek(start)
    assert scheduler.get_last_lr() == [1.0]
    if start > 1:
        scheduler.seek(start - 1)
        assert scheduler.get_last_lr()[0] < 1.0
    assert s(np.array([start, start + 1])).tolist() == [s(start), s(start + 1)]


@few
@given(T=st.integers(1, 300), c=st.integers(1, 12))
def test_hard_restarts_fall_on_their_steps(T, c):
    s = hf_parity.get_cosine_with_hard_restarts_schedule_with_warmup(1.0, 5, 5 + T * c, c)
    assert all(s(5 + T * i) == 1.0 for i in range(c))


# ---- transformers --------------------------------------------------------------------------


def test_a_state_holds_every_hyperparameter_of_the_schedule():
    """The state of a LambdaLR of transformers holds none."""
    s = hf_parity.get_wsd_schedule(0.1, 10, 20, 100, decay_type="1-sqrt", min_lr_ratio=0.25)
    text = Scheduler(sgd(), lr=s).state_dict()["schedules"]["lr"]["*"]
    scheduler = Scheduler(sgd(), lr=text)
    assert scheduler.state_dict()["schedules"]["lr"]["*"] == repr(s)


def test_min_lr_is_the_floor_of_each_group():
    """In transformers it is relative to the default rate: a group at 1e-3 ended at 1e-7."""
    optimizer = sgd(1.0, 1e-3)
    make = hf_parity.get_cosine_with_min_lr_schedule_with_warmup
    Scheduler(optimizer, lr=[make(lr, 5, 50, min_lr=1e-4) for lr in (1.0, 1e-3)]).seek(50)
    assert [rate(optimizer, i) for i in (0, 1)] == pytest.approx([1e-4, 1e-4])


# ---- optax -----------------------------------------------------------------------------------


def test_a_schedule_for_optax_can_be_pickled():
    s = to_optax(0.1 * (warmup(5) >> cosine(95)))
    assert pickle.loads(pickle.dumps(s)) == s


def test_piecewise_interpolation_is_right_on_arrays():
    s = optax_parity.piecewise_interpolate_schedule("cosine", 1.0, {4: 0.5, 9: 0.2})
    steps = jnp.arange(12)
    assert np.allclose(jax.jit(to_optax(s))(steps), [s(t) for t in range(12)], atol=1e-6)


def test_no_warmup_is_no_warmup():
    """optax stays at the initial value for ever with warmup_steps=0."""
    assert optax_parity.warmup_constant_schedule(0.0, 0.1, 0)(0) == 0.1
    assert optax_parity.warmup_cosine_decay_schedule(0.0, 0.1, 0, 50)(0) == pytest.approx(0.1)
    assert (0.1 * (warmup(0) >> cosine(50)))(0) == 0.1


# ---- timm ------------------------------------------------------------------------------------


@few
@given(W=st.integers(1, 200), T=st.integers(10, 500))
def test_the_rate_does_not_drop_after_the_warmup(W, T):
    """By default timm's cosine runs during the warmup, and the rate drops to it after."""
    s = warmup(W) >> cosine(T)
    steps = [s(t) for t in range(W + 2)]
    assert steps[W] == 1.0
    assert all(b >= a for a, b in pairwise(steps[: W + 1]))
    assert steps[W + 1] > 0.9


# ---- changing the length, resuming restarts ----------------------------------------------------


@few
@given(
    at=st.integers(1, 99), more=st.integers(1, 300), floor=st.floats(0.0, 0.9), W=st.integers(0, 20)
)
def test_a_longer_run_goes_on_without_a_jump(at, more, floor, W):
    """Elsewhere a new length makes the rate jump, or is ignored."""
    saved = Scheduler(sgd(), lr=0.1 * (warmup(W) >> cosine(100, floor=floor)))
    saved.seek(at)
    s = 0.1 * (warmup(W) >> cosine(100, floor=floor))
    longer = s.extend(at=at, horizon=W + 100 + more)
    scheduler = Scheduler(sgd(), lr=longer)
    with pytest.raises(BadValueError, match="was saved under other schedules"):
        scheduler.load_state_dict(saved.state_dict())
    scheduler.load_state_dict(saved.state_dict(), on_difference="keep")
    assert scheduler.get_last_lr()[0] == pytest.approx(saved.get_last_lr()[0], rel=1e-9, abs=1e-15)
    scheduler.seek(W + 100 + more)
    assert scheduler.get_last_lr()[0] == pytest.approx(0.1 * floor, abs=1e-12)


def test_restarts_do_not_resume_at_zero():
    """Elsewhere the rate at the end of a cycle became the new base rate, 0."""
    optimizer = sgd(0.1)
    scheduler = Scheduler(optimizer, scale=restarts(10))
    scheduler.seek(9)
    saved = copy.deepcopy(optimizer.state_dict()), scheduler.state_dict()
    optimizer = sgd(0.1)
    optimizer.load_state_dict(saved[0])
    scheduler = Scheduler(optimizer, scale=restarts(10))
    scheduler.load_state_dict(saved[1])
    scheduler.step()
    assert rate(optimizer) == 0.1


# ---- what a step is ------------------------------------------------------------------------


def test_warmup_counts_updates_not_forward_passes():
    clock = Clock.of_data(640, 8, accumulation=4, world_size=2, horizon="5 epochs")
    assert clock.horizon == 50  # 640 / (8·4·2) updates in each of 5 epochs
    s = (warmup("1 epoch") >> cosine()).over(clock)
    scheduler = Scheduler(sgd(), lr=s)
    for forward in range(1, 41):
        if forward % 4 == 0:
            scheduler.step()
    assert scheduler.get_last_lr() == [1.0]


@few
@given(world=st.integers(1, 8))
def test_a_run_is_as_long_on_any_number_of_processes(world):
    """Elsewhere each process made the scheduler step once more."""
    clock = Clock.of_data(800 * world, 8, world_size=world, horizon="2 epochs")
    assert clock.horizon == 200
    assert clock.step(100, accumulation=1) == 100


def test_a_step_that_the_loss_scaler_skips_gives_no_warning():
    """Torch warns of a wrong order of calls when the first update is skipped."""
    optimizer = sgd()
    scheduler = Scheduler(optimizer, lr=0.1 * warmup(10))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler.step()  # no optimizer.step() before it
        optimizer.step()
        scheduler.step()
    assert Clock().step(10, skipped=1) == 9


# ---- compiled steps ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_a_tensor_rate_does_not_compile_the_step_anew(kind):
    torch._dynamo.reset()
    parameter = torch.nn.Parameter(torch.ones(3))
    lr = torch.tensor(0.1)
    optimizer = kind([parameter], lr=lr)
    scheduler = Scheduler(optimizer, lr=0.1 * cosine(20))
    counter = CompileCounter()
    step = torch.compile(optimizer.step, backend=counter)
    compiled = []
    for t in range(6):
        assert lr.item() == pytest.approx(0.1 * cosine(20)(t))
        parameter.grad = torch.ones(3)
        step()
        scheduler.step()
        compiled.append(counter.frame_count)
    assert compiled == [1] * 6  # with a float it is compiled twice
    assert optimizer.param_groups[0]["lr"] is lr


def test_one_schedule_for_every_group_and_hyperparameter_on_one_clock():
    optimizer = adamw(0.1, 0.2)
    moved = {"weight_decay": constant(0.1), "beta1": 0.8 * linear(10)}
    scheduler = Scheduler(optimizer, scale=cosine(10), **moved)
    scheduler.seek(5)
    assert [g["betas"][0] for g in optimizer.param_groups] == [0.4, 0.4]
    assert [rate(optimizer, i) for i in (0, 1)] == pytest.approx([0.05, 0.1])
