"""A tensor as hyperparameter belongs to one group, whoever writes it."""

from __future__ import annotations

import copy
import io

import pytest
import torch

from etude.interop.torch import Scheduler
from etude.layerwise import rates_of
from etude.optimizers.factory import build
from etude.schedules import linear
from etude.training.gradient.param_groups import write


def one() -> torch.nn.Parameter:
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.ones(1)
    return parameter


def lrs(optimizer) -> list[float]:
    return [pytest.approx(float(group["lr"])) for group in optimizer.param_groups]


def test_groups_that_share_a_tensor_move_at_their_own_rates():
    a, b = one(), one()
    rate = torch.tensor(0.1)
    optimizer = torch.optim.SGD([{"params": [a]}, {"params": [b]}], lr=rate)
    scheduler = Scheduler(optimizer, lr=["constant(0.1)", "constant(0.01)"])
    optimizer.step()
    assert (a.item(), b.item()) == (pytest.approx(-0.1), pytest.approx(-0.01))
    assert scheduler.get_last_lr() == [0.1, 0.01]
    assert optimizer.param_groups[0]["lr"] is rate  # whoever holds it sees what is written


def test_a_group_that_joins_later_begins_from_the_optimizers_own_rate():
    optimizer = torch.optim.SGD([one()], lr=torch.tensor(0.1, dtype=torch.float64))
    scheduler = Scheduler(optimizer, scale=linear(10))
    scheduler.step()
    optimizer.add_param_group({"params": [one()]})
    assert lrs(optimizer) == [0.09, 0.09]
    scheduler.step()
    assert lrs(optimizer) == [0.08, 0.08]
    assert [group["lr"].dtype for group in optimizer.param_groups] == [torch.float64] * 2
    assert float(optimizer.defaults["lr"]) == 0.1


def test_a_group_that_is_left_alone_is_not_moved():
    groups = [{"params": [one()]}, {"params": [one()]}, {"params": [one()]}]
    optimizer = torch.optim.SGD(groups, lr=torch.tensor(0.1))
    scheduler = Scheduler(optimizer, lr=[None, linear(10), None])
    scheduler.seek(5)
    assert lrs(optimizer) == [0.1, 0.5, 0.1]
    first, _, last = optimizer.param_groups
    assert first["lr"] is last["lr"]  # nobody writes them: they stay as they were


def test_betas_are_not_shared_between_groups_or_with_each_other():
    beta = torch.tensor(0.9)
    optimizer = torch.optim.SGD([{"params": [one()]}, {"params": [one()]}], lr=0.1)
    for group in optimizer.param_groups:
        group["betas"] = (beta, beta)
    Scheduler(optimizer, beta1=["constant(0.5)", "constant(0.6)"])
    found = [[float(b) for b in group["betas"]] for group in optimizer.param_groups]
    assert found == [pytest.approx([0.5, 0.9]), pytest.approx([0.6, 0.9])]


def test_a_state_that_was_saved_shared_is_split_when_it_is_loaded():
    def made():
        return torch.optim.SGD([{"params": [one()]}, {"params": [one()]}], lr=torch.tensor(0.1))

    file = io.BytesIO()
    torch.save(made().state_dict(), file)
    file.seek(0)
    for state in (copy.deepcopy(made().state_dict()), torch.load(file)):
        optimizer = made()
        scheduler = Scheduler(optimizer, lr=["constant(0.1)", "constant(0.01)"])
        optimizer.load_state_dict(state)
        assert lrs(optimizer) == [0.1, 0.01]
        other = Scheduler(made(), lr=["constant(0.1)", "constant(0.01)"])
        other.load_state_dict(scheduler.state_dict())
        assert lrs(other.optimizer) == [0.1, 0.01]


def test_build_gives_each_group_its_own_tensor():
    groups = [{"params": [one()]}, {"params": [one()]}]
    rate = torch.tensor(0.1)
    optimizer = build("sgd", groups, lr=rate)
    first, second = (group["lr"] for group in optimizer.param_groups)
    assert first is rate
    assert second is not rate
    zero = build("sgd", [{"params": [one()]}], lr=torch.tensor(0.0)).param_groups[0]["lr"]
    assert isinstance(zero, torch.Tensor)
    assert zero == 0.0


def test_multipliers_that_move_have_each_their_own_tensor():
    model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1))
    optimizer = build(
        "sgd", model, lr=torch.tensor(0.1), lr_mult={"0.*": "linear(10)", "1.*": "constant(0.5)"}
    )
    rates_of(optimizer).bind(10)
    rates_of(optimizer).set(0.1, 5)
    assert lrs(optimizer) == [0.05, 0.05]
    rates_of(optimizer).set(0.1, 8)
    assert lrs(optimizer) == [0.02, 0.05]


def test_an_update_is_written_in_place():
    rate, beta = torch.tensor(0.1), torch.tensor(0.9)
    optimizer = torch.optim.SGD([one()], lr=rate)
    optimizer.param_groups[0]["betas"] = (beta, 0.99)
    write(optimizer, 0.5, {"momentum": 0.8, "beta2": 0.7})
    group = optimizer.param_groups[0]
    assert group["lr"] is rate
    assert rate == 0.5
    assert group["momentum"] == 0.8
    assert group["betas"] == (beta, 0.7)


@pytest.mark.slow
def test_a_compiled_step_is_not_compiled_anew_for_another_value():
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    a, b = one(), one()
    optimizer = torch.optim.SGD([{"params": [a]}, {"params": [b]}], lr=torch.tensor(0.1))
    scheduler = Scheduler(optimizer, lr=["constant(0.1) * linear(20)", "constant(0.01)"])

    @torch.compile(backend=counter)
    def step():
        optimizer.step()

    step()
    compiled = counter.frame_count
    moved = [a.item(), b.item()]
    for t in range(1, 6):
        scheduler.step()
        step()
        moved[0] -= 0.1 * (1 - t / 20)
        moved[1] -= 0.01
    assert counter.frame_count == compiled >= 1
    assert [a.item(), b.item()] == pytest.approx(moved, rel=1e-5)


def test_a_rate_of_a_whole_number_is_not_cut_off():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=torch.tensor(1))
    scheduler = Scheduler(optimizer, lr="linear(10)")
    scheduler.step()
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(scheduler.get_last_lr()[0])
    assert scheduler.get_last_lr() == [0.9]
