"""Metrics reach the schedules that react to one."""

import pytest

from etude.errors import BadTypeError, BadValueError
from etude.interop.torch import Scheduler
from etude.schedules import (
    plateau,
    warmup,
)
from tests.interop.common import S, rates
from tests.interop.peers import sgd

pytestmark = pytest.mark.filterwarnings("ignore:lr (is|sets all):UserWarning")


def test_metrics_reach_a_plateau_inside_a_join_and_are_replayed():
    s = 0.1 * (warmup(3) >> plateau(factor=0.5, patience=0))
    optimizer = sgd()
    scheduler = Scheduler(optimizer, lr=s)
    for metric in (9.0, 9.0, 9.0, 1.0, 1.0, 1.0):
        scheduler.step(metric)
    assert rates(optimizer) == [0.1 * 0.25]  # the first metric that it hears is that of step 3
    scheduler.seek(4)
    assert rates(optimizer) == [0.1]
    scheduler.seek(5)
    assert rates(optimizer) == [0.1 * 0.5]


def test_record_reports_without_going_on():
    scheduler = Scheduler(sgd(), lr=plateau(factor=0.5, patience=0))
    scheduler.seek(100)
    scheduler.record(1.0)
    scheduler.record(1.0)
    assert (scheduler.last_epoch, scheduler.get_last_lr()) == (100, [0.5])


def test_a_metric_that_nothing_reacts_to_is_an_error():
    scheduler = Scheduler(sgd(), lr=S)
    for call in (scheduler.step, scheduler.record):
        with pytest.raises(BadValueError, match=r"a metric is given \(5\), but no schedule"):
            call(5)
    assert scheduler.last_epoch == 0


@pytest.mark.parametrize("metric", [True, "0.5"])
def test_a_metric_is_a_number(metric):
    scheduler = Scheduler(sgd(), lr=plateau())
    with pytest.raises(BadTypeError, match=f"a metric is {metric!r}; it must be a number"):
        scheduler.step(metric)
    assert (scheduler.last_epoch, scheduler.state_dict()["events"]) == (0, [])
