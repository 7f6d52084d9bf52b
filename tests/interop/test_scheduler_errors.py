"""What the torch adapter refuses, and how it says so."""

import pytest

from etude.errors import BadTypeError, BadValueError, UnknownNameError
from etude.interop.torch import Scheduler
from etude.schedules import (
    cosine,
)
from tests.interop.common import S
from tests.interop.peers import sgd

pytestmark = pytest.mark.filterwarnings("ignore:lr (is|sets all):UserWarning")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda o: Scheduler(o), BadValueError, "nothing is scheduled: give lr="),
        (lambda o: Scheduler(o, lr=cosine()), BadValueError, r"schedule\.over\(10_000\)"),
        (lambda o: Scheduler(o, lr="warmup('5%')"), BadValueError, "no length in steps yet"),
        (lambda o: Scheduler(o, lr=0.1), BadTypeError, r"lr is 0\.1; it must be a schedule"),
        (lambda o: Scheduler(o, lr=S, scale=S), BadValueError, "both lr and scale are given"),
        (lambda o: Scheduler(o, lr=[S, S]), BadValueError, "lr lists 2 schedules, but the optim"),
        (lambda o: Scheduler(o, lr={"head": S}), UnknownNameError, "unknown group 'head'"),
        (lambda o: Scheduler(o, lr={4: S}), BadValueError, "the groups are 0 to 0"),
        (lambda o: Scheduler(o, lr={1.5: S}), BadTypeError, r"lr has the key 1\.5"),
        (
            lambda o: Scheduler(o, weight_deacy=S),
            UnknownNameError,
            "unknown hyperparameter of group 0 'weight_deacy': did you mean 'weight_decay'",
        ),
        (lambda o: Scheduler(o, beta1=S), UnknownNameError, "hyperparameter of group 0 'beta1'"),
        (lambda o: Scheduler(o, nesterov=S), BadTypeError, "nesterov of group 0 is False, not a n"),
        (lambda o: Scheduler(o, params=S), UnknownNameError, "hyperparameter of group 0 'params'"),
        (lambda o: Scheduler([o], lr=S), BadTypeError, "optimizer is a list; it must be a torch"),
        (lambda o: Scheduler(o, lr=S).seek(-1), BadValueError, "step is -1; it must be between"),
        (lambda o: Scheduler(o, lr=S).seek(1.5), BadTypeError, r"step is 1\.5; it must be a whole"),
        (lambda o: Scheduler(o, lr=S).seek(True), BadTypeError, "step is True; it must be a whole"),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make(sgd())


def test_a_multiple_of_nothing_is_refused():
    optimizer = sgd()
    optimizer.param_groups[0]["lr"] = None
    with pytest.raises(BadValueError, match="lr of group 0 is None, so there is nothing to multi"):
        Scheduler(optimizer, scale=S)
