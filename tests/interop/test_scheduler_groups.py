"""A parameter group that joins a scheduled optimizer follows the schedule."""

import pytest
import torch

from etude.errors import BadValueError
from etude.interop.torch import Scheduler
from etude.schedules import (
    constant,
    linear,
)
from tests.interop.common import S, parameter, rates
from tests.interop.peers import sgd

pytestmark = pytest.mark.filterwarnings("ignore:lr (is|sets all):UserWarning")


def test_a_group_that_joins_follows_at_once():
    optimizer = sgd()
    scheduler = Scheduler(optimizer, lr=S)
    scheduler.seek(7)
    optimizer.add_param_group({"params": parameter(), "lr": 9.0})
    assert rates(optimizer) == [S(7), S(7)]
    scheduler.step()
    assert rates(optimizer) == [S(8), S(8)] == scheduler.get_last_lr()


def test_a_group_that_joins_unseen_follows_from_the_next_step():
    optimizer = sgd()
    scheduler = Scheduler(optimizer, lr=S)
    torch.optim.Optimizer.add_param_group(optimizer, {"params": parameter(), "lr": 9.0})
    scheduler.step()
    assert rates(optimizer) == [S(1), S(1)]
    optimizer.param_groups = [dict(group) for group in optimizer.param_groups]
    scheduler.step()
    assert rates(optimizer) == [S(2), S(2)]


def test_a_group_that_joins_is_scaled_from_its_own_rate():
    optimizer = sgd(0.1)
    scheduler = Scheduler(optimizer, scale=linear(10))
    scheduler.seek(5)
    optimizer.add_param_group({"params": parameter(), "lr": 0.4})
    assert rates(optimizer) == [0.05, 0.2]


def test_a_group_may_join_with_schedules_of_its_own():
    optimizer = sgd(0.1)
    scheduler = Scheduler(optimizer, lr=[S])
    scheduler.seek(5)
    scheduler.add_param_group({"params": parameter()}, lr=linear(10), momentum=constant(0.3))
    assert rates(optimizer) == [S(5), 0.5]
    assert rates(optimizer, "momentum") == [0.9, 0.3]
    other = Scheduler(sgd(0.1), lr=[S])
    other.add_param_group({"params": parameter()}, lr=linear(10), momentum=constant(0.3))
    other.load_state_dict(scheduler.state_dict())
    assert other.get_last_lr() == [S(5), 0.5]


def test_a_list_does_not_guess_for_a_group_that_joins():
    optimizer = sgd(0.1)
    scheduler = Scheduler(optimizer, lr=[S])
    with pytest.raises(BadValueError, match=r"group 1, but lr lists schedules for 1: add groups"):
        optimizer.add_param_group({"params": parameter()})
    assert scheduler.last_epoch == 0


def test_a_group_that_cannot_join_changes_nothing():
    optimizer = sgd(0.1)
    scheduler = Scheduler(optimizer, lr=[S])
    before = scheduler.state_dict()
    with pytest.raises(ValueError, match="some parameters appear in more than one"):
        scheduler.add_param_group({"params": optimizer.param_groups[0]["params"]}, lr=S)
    assert scheduler.state_dict() == before
    scheduler.step()
    assert rates(optimizer) == [S(1)]
