"""The torch adapter writes the schedule: for every form, optimizer and order of loading."""

import copy
import gc
import io
import json
import pickle
import warnings
import weakref
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import LRScheduler, SequentialLR

from etude.errors import BadTypeError, BadValueError
from etude.interop.torch import Scheduler, relative
from etude.schedules import (
    KINDS,
    constant,
    cosine,
    exponential,
    function,
    linear,
    parse,
    plateau,
    register,
    step,
    warmup,
)
from tests.interop.common import CLOCK, S, parameter, rates
from tests.interop.peers import adamw, few, sgd

# Rates of 1 are short to write; what the warnings say is tested in test_scheduler_checks.py.
pytestmark = pytest.mark.filterwarnings("ignore:lr (is|sets all):UserWarning")

EXAMPLES = sorted({text for row in KINDS.values() for text in row.examples})


# ---- values --------------------------------------------------------------------------------


@pytest.mark.parametrize("text", EXAMPLES)
def test_it_writes_the_pure_function_for_every_kind(text):
    s = parse(text).over(CLOCK)
    optimizer = sgd(0.1, 0.2)
    scheduler = Scheduler(optimizer, lr=s)
    for t in range(70):
        assert rates(optimizer) == [s(t), s(t)] == scheduler.get_last_lr()
        scheduler.step()


def test_it_never_reads_the_live_value_back():
    optimizer = sgd()
    scheduler = Scheduler(optimizer, lr=S)
    optimizer.param_groups[0]["lr"] = 77.0
    scheduler.step()
    assert rates(optimizer) == [S(1)]


def test_scale_multiplies_each_groups_own_rate():
    optimizer = sgd(0.1, 0.4)
    scheduler = Scheduler(optimizer, scale=cosine(20))
    for t in range(25):
        assert rates(optimizer) == [0.1 * cosine(20)(t), 0.4 * cosine(20)(t)]
        scheduler.step()
    assert scheduler.base_lrs == [0.1, 0.4]
    assert [g["initial_lr"] for g in optimizer.param_groups] == [0.1, 0.4]


def test_forms_by_list_number_name_and_star():
    groups = [{"params": parameter(), "name": n} for n in ("body", "neck", "head")]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    Scheduler(optimizer, lr=[constant(0.2), None, constant(0.3)])
    assert rates(optimizer) == [0.2, 0.1, 0.3]
    Scheduler(optimizer, lr={"head": constant(0.4), 0: constant(0.5), "*": constant(0.6)})
    assert rates(optimizer) == [0.5, 0.6, 0.4]
    Scheduler(optimizer, lr={"head": "constant(0.7)", "*": None})
    assert rates(optimizer) == [0.5, 0.6, 0.7]
    Scheduler(optimizer, scale={"head": constant(2.0)})
    assert rates(optimizer) == [0.5, 0.6, pytest.approx(0.2)]  # from the rate it joined with


def test_momentum_is_momentum_or_the_first_beta():
    s = 0.9 * linear(10, start=1.0, end=0.5)
    for optimizer, read in (
        (sgd(), lambda g: g["momentum"]),
        (adamw(), lambda g: g["betas"][0]),
        (torch.optim.RMSprop(parameter(), lr=0.1), lambda g: g["momentum"]),
    ):
        scheduler = Scheduler(optimizer, momentum=s)
        scheduler.seek(7)
        assert read(optimizer.param_groups[0]) == s(7)
        assert rates(optimizer) == [optimizer.defaults["lr"]]


def test_any_hyperparameter_on_one_clock():
    optimizer = adamw()
    scheduler = Scheduler(
        optimizer,
        lr=S,
        beta1=constant(0.8),
        beta2=constant(0.95),
        weight_decay=0.1 * linear(10),
        eps=exponential(0.5),
    )
    for _ in range(3):
        scheduler.step()
    group = optimizer.param_groups[0]
    assert group["betas"] == (0.8, 0.95)
    assert (group["lr"], group["eps"], group["weight_decay"]) == (S(3), 0.125, 0.1 * linear(10)(3))


def test_a_relative_weight_decay_leaves_groups_without_decay_alone():
    decayed = {"params": parameter(), "weight_decay": 0.2}
    optimizer = torch.optim.AdamW([decayed, {"params": parameter(), "weight_decay": 0.0}])
    scheduler = Scheduler(optimizer, weight_decay=relative(linear(10)))
    scheduler.seek(5)
    assert rates(optimizer, "weight_decay") == [0.1, 0.0]
    assert rates(optimizer) == [1e-3, 1e-3]


def test_tensor_values_are_written_in_place():
    lr, beta = torch.tensor(0.1), torch.tensor(0.9)
    group = {"params": parameter(), "lr": lr}
    optimizer = torch.optim.SGD([group], lr=0.1)
    optimizer.param_groups[0]["betas"] = (beta, 0.99)
    scheduler = Scheduler(optimizer, lr=S, beta1=0.9 * linear(10))
    scheduler.seek(5)
    assert optimizer.param_groups[0]["lr"] is lr
    assert optimizer.param_groups[0]["betas"][0] is beta
    assert lr.item() == pytest.approx(S(5))
    assert beta.item() == pytest.approx(0.45)
    assert scheduler.get_last_lr() == [S(5)]


@few
@given(t=st.integers(0, 2**53))
def test_seek_is_the_pure_function_anywhere(t):
    optimizer = sgd()
    scheduler = Scheduler(optimizer, lr=S, momentum=0.9 * step(1_000, 0.999))
    scheduler.seek(t)
    assert (scheduler.last_epoch, rates(optimizer)) == (t, [S(t)])


# ---- state ---------------------------------------------------------------------------------


def _feed(scheduler, t):
    """One update: with a metric where something reacts to it."""
    if scheduler.has_feedback:
        scheduler.step(1.0 + t % 3)
    else:
        scheduler.step()


def _made(optimizer, text, scaled):
    s = parse(text).over(CLOCK)
    if scaled:
        return Scheduler(optimizer, scale=s)
    return Scheduler(optimizer, lr=s, momentum=(0.9 * s).clip(0.0, 0.9))


@pytest.mark.parametrize("scaled", [False, True], ids=["values", "scaled"])
@pytest.mark.parametrize("text", EXAMPLES)
def test_resumed_is_uninterrupted_for_every_kind_in_any_order(text, scaled):
    optimizer = sgd(0.1, 0.2)
    scheduler = _made(optimizer, text, scaled)
    scheduler.seek(40)  # after the events that some examples bring along
    for t in range(40, 83):
        _feed(scheduler, t)
    saved = copy.deepcopy(optimizer.state_dict()), json.loads(json.dumps(scheduler.state_dict()))
    expected = []
    for t in range(83, 125):
        expected.append((rates(optimizer), rates(optimizer, "momentum")))
        _feed(scheduler, t)
    for order in permutations(("build", "optimizer", "scheduler")):
        if order.index("build") > order.index("scheduler"):
            continue  # what does not exist cannot load
        optimizer = sgd(0.1, 0.2)
        for action in order:
            if action == "build":
                scheduler = _made(optimizer, text, scaled)
            elif action == "optimizer":
                optimizer.load_state_dict(copy.deepcopy(saved[0]))
            else:
                scheduler.load_state_dict(saved[1])
        found = []
        for t in range(83, 125):
            found.append((rates(optimizer), rates(optimizer, "momentum")))
            _feed(scheduler, t)
        assert found == expected, order


def test_a_rate_inside_a_loaded_optimizer_is_not_taken_over():
    old = sgd(0.1)
    momentum = 0.9 * linear(10)
    Scheduler(old, lr=S, momentum=momentum).seek(3)
    optimizer = sgd(0.1)
    scheduler = Scheduler(optimizer, lr=S, momentum=momentum)
    scheduler.seek(7)
    optimizer.load_state_dict(copy.deepcopy(old.state_dict()))
    assert (rates(optimizer), rates(optimizer, "momentum")) == ([S(7)], [momentum(7)])
    scheduler.step()
    assert rates(optimizer) == [S(8)]


def test_an_optimizer_saved_without_base_rates_does_not_change_them():
    plain = sgd(0.05).state_dict()
    assert "initial_lr" not in plain["param_groups"][0]
    optimizer = sgd(0.4)
    scheduler = Scheduler(optimizer, scale=linear(10))
    optimizer.load_state_dict(plain)
    scheduler.seek(5)
    assert rates(optimizer) == [0.2]


def test_a_tensor_rate_that_is_loaded_is_written_in_place_from_then_on():
    def made():
        return torch.optim.AdamW(parameter(), lr=torch.tensor(0.1))

    old = made()
    Scheduler(old, lr=S).seek(3)
    optimizer = made()
    scheduler = Scheduler(optimizer, lr=S)
    scheduler.seek(7)
    optimizer.load_state_dict(copy.deepcopy(old.state_dict()))
    live = optimizer.param_groups[0]["lr"]
    assert isinstance(live, torch.Tensor)
    assert live.item() == pytest.approx(S(7))
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] is live
    assert live.item() == pytest.approx(S(8))


def test_a_registered_function_resumes_as_well():
    @register("interop_test_halving", replace=True)
    def halving(t):
        return 0.5 ** (t // 10)

    scheduler = Scheduler(sgd(), lr=0.1 * function("interop_test_halving"))
    scheduler.seek(25)
    other = Scheduler(sgd(), lr=0.1 * function("interop_test_halving"))
    other.load_state_dict(scheduler.state_dict())
    assert other.get_last_lr() == [0.1 * 0.25]


def test_the_state_is_plain_data_that_torch_loads_safely():
    scheduler = Scheduler(sgd(), lr=0.1 * (warmup(5) >> plateau(patience=0, factor=0.5)))
    for metric in (1.0, float("nan"), torch.tensor(2.0)):
        scheduler.step(metric)
    state = scheduler.state_dict()
    assert state["schedules"] == {
        "lr": {"*": "0.1 * (warmup(5) >> plateau(factor=0.5, patience=0))"}
    }
    assert state["events"] == [[1, 1.0], [2, None], [3, 2.0]]
    assert json.loads(json.dumps(state)) == state
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    assert torch.load(file, weights_only=True) == state


def test_another_schedules_state_is_explained_not_taken():
    saved = Scheduler(sgd(), lr=0.1 * cosine(100))
    saved.seek(40)
    other = Scheduler(sgd(), lr=0.1 * cosine(200), momentum=constant(0.9))
    with pytest.raises(BadValueError, match="at step 40") as caught:
        other.load_state_dict(saved.state_dict())
    message = str(caught.value)
    assert "at step 40" in message
    assert "lr: length of cosine is 200, was 100" in message
    assert "momentum: constant(0.9) instead of no schedule" in message
    assert "saved.extend(at=40, horizon=...)" in message
    assert (other.last_epoch, other.get_last_lr()) == (0, [0.1])

    other.load_state_dict(saved.state_dict(), on_difference="keep")
    assert other.get_last_lr() == [0.1 * cosine(200)(40)]
    other.load_state_dict(saved.state_dict(), on_difference="replace")
    assert other.get_last_lr() == [0.1 * cosine(100)(40)]
    assert other.state_dict() == saved.state_dict()
    with pytest.raises(BadValueError, match="unknown on_difference 'keeep': did you mean 'keep'"):
        other.load_state_dict(saved.state_dict(), on_difference="keeep")


@pytest.mark.parametrize("optimizer_first", [True, False])
def test_another_base_rate_is_explained_in_either_order(optimizer_first):
    old = sgd(0.1)
    saved = Scheduler(old, scale=cosine(100))
    saved.seek(40)
    new = sgd(0.2)
    scheduler = Scheduler(new, scale=cosine(100))
    if optimizer_first:
        new.load_state_dict(old.state_dict())
    with pytest.raises(BadValueError, match=r"base lr of group 0 is 0\.2; it was 0\.1"):
        scheduler.load_state_dict(saved.state_dict())
    scheduler.load_state_dict(saved.state_dict(), on_difference="keep")
    assert rates(new) == [0.2 * cosine(100)(40)]
    scheduler.load_state_dict(saved.state_dict(), on_difference="replace")
    assert rates(new) == [0.1 * cosine(100)(40)]


def test_values_and_multiples_are_not_mistaken_for_each_other():
    saved = Scheduler(sgd(), lr=cosine(10))
    other = Scheduler(sgd(), scale=cosine(10))
    with pytest.raises(BadValueError, match="multiples of each group's base value instead of val"):
        other.load_state_dict(saved.state_dict())


def test_an_unreadable_saved_schedule_is_shown_as_it_is():
    scheduler = Scheduler(sgd(), lr=cosine(10))
    state = scheduler.state_dict()
    state["schedules"]["lr"]["*"] = "function('interop_not_here')"
    with pytest.raises(
        BadValueError, match=r"cosine\(10\) instead of function\('interop_not_here'"
    ):
        scheduler.load_state_dict(state)


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        ({"last_epoch": 3, "T_max": 5}, BadValueError, r"not the state of an etude .*T_max"),
        ({"etude": 9}, BadValueError, "format 9; this version reads 1"),
        ({"etude": 1, "step": 3}, BadValueError, "the state is damaged: KeyError: 'events'"),
        ([1], BadTypeError, "the state is a list; it must be a mapping"),
        (
            {"etude": 1, "step": -1, "events": [], "schedules": {}, "bases": []},
            BadValueError,
            r"step is -1; it must be between 0 and 2\*\*53",
        ),
    ],
)
def test_what_is_no_state_is_refused(state, error, message):
    with pytest.raises(error, match=message):
        Scheduler(sgd(), lr=S).load_state_dict(state)


def test_copied_and_pickled_schedulers_go_on_by_themselves():
    optimizer = sgd()
    scheduler = Scheduler(optimizer, lr=S, momentum=relative(linear(10)))
    scheduler.seek(5)
    for other in (copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))):
        assert other.optimizer is not optimizer
        other.step()
        other.optimizer.add_param_group({"params": parameter()})
        assert rates(other.optimizer) == [S(6), S(6)]
    assert rates(optimizer) == [S(5)]


def test_the_optimizer_does_not_keep_a_scheduler_alive():
    optimizer = sgd()
    scheduler = Scheduler(optimizer, lr=S)
    gone = weakref.ref(scheduler)
    del scheduler
    gc.collect()
    assert gone() is None
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.add_param_group({"params": parameter(), "lr": 3.0})
    assert rates(optimizer) == [0.0, 3.0]


def test_two_schedulers_may_share_an_optimizer():
    optimizer = sgd()
    first, second = Scheduler(optimizer, lr=S), Scheduler(optimizer, momentum=0.9 * linear(10))
    first.seek(5)
    second.seek(5)
    optimizer.add_param_group({"params": parameter()})
    assert rates(optimizer) == [S(5)] * 2
    assert rates(optimizer, "momentum") == [0.45] * 2


# ---- among torch's own ---------------------------------------------------------------------


def test_it_is_an_lr_scheduler():
    scheduler = Scheduler(sgd(0.1, 0.2), lr=S)
    assert isinstance(scheduler, LRScheduler)
    scheduler.step()
    assert scheduler._last_lr == scheduler.get_lr() == [S(1), S(1)]
    assert (scheduler.last_epoch, scheduler._step_count) == (1, 2)
    assert repr(scheduler).startswith("Scheduler(lr={'*': '0.5 * (warmup(10)")


def test_a_part_that_has_not_begun_is_begun_by_any_step():
    """An older torch's SequentialLR begins a part with `step(0)`, a newer one otherwise."""
    for begin in (lambda s: s.step(), lambda s: s.step(0), lambda s: s._update_lr(0)):
        scheduler = Scheduler(sgd(), lr=S)
        scheduler.last_epoch -= 1
        begin(scheduler)
        assert (scheduler.last_epoch, rates(scheduler.optimizer)[0]) == (0, S(0))
        with pytest.raises(BadValueError, match="no schedule here reacts to one"):
            scheduler.step(0)


def test_torchs_sequential_may_hold_it():
    optimizer = sgd()
    parts = [Scheduler(optimizer, lr=linear(10)), Scheduler(optimizer, lr=S)]
    outer = SequentialLR(optimizer, parts, milestones=[4])
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(9):
            found.append(rates(optimizer)[0])
            outer.step()
    assert found == [*(linear(10)(t) for t in range(4)), *(S(t) for t in range(5))]


def test_a_wrapped_optimizer_is_found():
    class Wrapper(torch.optim.Optimizer):
        def __init__(self, optimizer):
            self.optimizer = optimizer

    optimizer = sgd()
    assert Scheduler(Wrapper(optimizer), lr=S).optimizer is optimizer
