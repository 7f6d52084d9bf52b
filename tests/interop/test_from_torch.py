import functools
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler as peer

from etude.errors import BadTypeError, BadValueError, UnknownNameError
from etude.interop.torch import Scheduler, from_torch
from etude.interop.torch.convert import _READERS
from etude.schedules import cosine, function, register, warmup
from tests.interop.peers import LR, assert_same, few, sgd, stepped

transformers = pytest.importorskip("transformers.optimization")

MAKERS = {
    "ConstantLR": lambda o: peer.ConstantLR(o, 0.4, 7),
    "LinearLR": lambda o: peer.LinearLR(o, 0.2, 0.9, 11),
    "ExponentialLR": lambda o: peer.ExponentialLR(o, 0.93),
    "StepLR": lambda o: peer.StepLR(o, 9, 0.3),
    "MultiStepLR": lambda o: peer.MultiStepLR(o, [5, 20, 20], 0.5),
    "PolynomialLR": lambda o: peer.PolynomialLR(o, 30, 1.7),
    "CosineAnnealingLR": lambda o: peer.CosineAnnealingLR(o, 50, 0.01),
    "CosineAnnealingWarmRestarts": lambda o: peer.CosineAnnealingWarmRestarts(o, 5, 2, 0.02),
    "CyclicLR": lambda o: peer.CyclicLR(o, 0.1, 0.6, 3, 8, "triangular2"),
    "CyclicLR exp_range": lambda o: peer.CyclicLR(o, 0.1, 0.6, 7, None, "exp_range", 0.99),
    "OneCycleLR": lambda o: peer.OneCycleLR(o, 0.7, 51),
    "OneCycleLR three": lambda o: peer.OneCycleLR(o, 0.7, 51, three_phase=True),
    "SequentialLR": lambda o: peer.SequentialLR(
        o,
        [
            peer.LinearLR(o, 0.1, total_iters=6),
            peer.CosineAnnealingWarmRestarts(o, 8),
            peer.ExponentialLR(o, 0.9),
        ],
        [6, 30],
    ),
    "ChainedScheduler": lambda o: peer.ChainedScheduler(
        [peer.LinearLR(o, 0.1, total_iters=6), peer.CosineAnnealingLR(o, 60), peer.StepLR(o, 9)]
    ),
    "LambdaLR": lambda o: transformers.get_cosine_schedule_with_warmup(o, 5, 50),
}
STEPS = 50


@pytest.mark.parametrize("name", MAKERS)
def test_every_class_of_torch_is_read(name):
    fresh = from_torch(MAKERS[name](sgd(0.3)))
    assert_same(fresh, stepped(MAKERS[name](sgd(0.3)), STEPS))


@pytest.mark.parametrize("name", MAKERS)
def test_a_scheduler_that_has_gone_on_is_read_as_well(name):
    scheduler = MAKERS[name](sgd(0.3))
    stepped(scheduler, 23)
    assert from_torch(scheduler) == from_torch(MAKERS[name](sgd(0.3)))


def test_no_class_of_torch_is_missing():
    known = {cls.__name__ for cls in _READERS}
    assert known == set(peer.__all__) - {"LRScheduler"}


@few
@given(metrics=st.lists(st.floats(0, 4), max_size=25), floor=st.floats(0.0, 0.1))
def test_a_plateau_is_read_before_its_first_metric(metrics, floor):
    theirs = peer.ReduceLROnPlateau(sgd(), factor=0.5, patience=1, cooldown=1, min_lr=floor)
    ours = from_torch(theirs)
    values = [LR]
    for metric in metrics:
        theirs.step(metric)
        values.append(theirs.optimizer.param_groups[0]["lr"])
    assert_same(ours.given(list(enumerate(metrics, start=1))), values)


def _kwargs(kind):
    return {
        "cosine_with_restarts": {"num_cycles": 3},
        "polynomial": {"lr_end": 0.01, "power": 1.5},
        "cosine_with_min_lr": {"min_lr": 0.05},
        "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1, "warmup_lr_rate": 0.2},
        "warmup_stable_decay": {"num_decay_steps": 10, "decay_type": "1-sqrt"},
        "inverse_sqrt": {"timescale": 8},
    }.get(kind)


@pytest.mark.parametrize("kind", [k.value for k in transformers.TYPE_TO_SCHEDULER_FUNCTION])
def test_everything_that_get_scheduler_makes_is_read_or_refused(kind):
    def make():
        return transformers.get_scheduler(kind, sgd(), 6, STEPS, _kwargs(kind))

    if kind == "greedy":
        with pytest.raises(BadTypeError, match="it raises the rate again when the metric improves"):
            from_torch(make())
    elif kind == "reduce_lr_on_plateau":
        assert from_torch(make()).has_feedback
    else:
        assert_same(from_torch(make()), stepped(make(), STEPS), peak=LR)


def test_groups_with_rates_of_their_own():
    def make():
        return transformers.get_scheduler("polynomial", sgd(0.3, 0.1), 6, STEPS, {"lr_end": 0.01})

    with pytest.raises(BadValueError, match=r"from_torch\(scheduler, group=0\)"):
        from_torch(make())
    for group in (0, 1):
        assert_same(from_torch(make(), group=group), stepped(make(), STEPS, group=group))
    read = make()
    ours = Scheduler(sgd(0.3, 0.1), lr=[from_torch(read, group=i) for i in range(2)])
    assert stepped(ours, STEPS, group=1) == pytest.approx(stepped(make(), STEPS, group=1))


@pytest.mark.parametrize("name", ["CyclicLR", "OneCycleLR", "OneCycleLR three"])
def test_momentum_is_read_as_well(name):
    ours = from_torch(MAKERS[name](sgd()), hyperparameter="momentum")
    assert_same(ours, stepped(MAKERS[name](sgd()), STEPS, "momentum"))


def test_a_registered_function_is_read():
    @register("interop_test_decay", replace=True)
    def decay(t):
        return 0.9**t

    ours = from_torch(peer.LambdaLR(sgd(), decay))
    assert ours == LR * function("interop_test_decay")
    assert_same(ours, stepped(peer.LambdaLR(sgd(), decay), 20))


def test_our_own_scheduler_is_read():
    assert from_torch(Scheduler(sgd(), lr=cosine(10))) == cosine(10)
    assert from_torch(Scheduler(sgd(), scale=cosine(10))) == LR * cosine(10)


def test_reading_changes_nothing():
    optimizer = sgd()
    scheduler = MAKERS["SequentialLR"](optimizer)
    before = repr(scheduler.state_dict()), repr(optimizer.state_dict())
    from_torch(scheduler)
    assert (repr(scheduler.state_dict()), repr(optimizer.state_dict())) == before


class Own(peer.LRScheduler):
    def get_lr(self):
        return [0.1 for _ in self.base_lrs]


def _seen():
    scheduler = peer.ReduceLROnPlateau(sgd())
    scheduler.step(1.0)
    return scheduler


def _moved():
    scheduler = peer.StepLR(sgd(), 10)
    scheduler.optimizer.param_groups[0]["lr"] = 0.123
    return scheduler


def _nested():
    o = sgd()
    inner = peer.SequentialLR(o, [peer.StepLR(o, 3), peer.StepLR(o, 4)], [5])
    return peer.SequentialLR(o, [inner, peer.StepLR(o, 5)], [20])


def _overwritten():
    o = sgd()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = [peer.LinearLR(o, 0.1, total_iters=5), peer.OneCycleLR(o, 0.7, 50)]
        return peer.SequentialLR(o, parts, [5])


def _chain(*makers):
    o = sgd()
    return peer.ChainedScheduler([make(o) for make in makers])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: peer.LambdaLR(sgd(), lambda t: 0.9**t),
            BadValueError,
            r"LambdaLR calls <lambda>, a function of your own.* register it",
        ),
        (
            lambda: peer.LambdaLR(sgd(), functools.partial(pow, 0.9)),
            BadValueError,
            "LambdaLR calls ",
        ),
        (
            lambda: peer.MultiplicativeLR(sgd(), lambda t: 0.9),
            BadValueError,
            "MultiplicativeLR multiplies the current rate by a function of your own",
        ),
        (
            lambda: peer.CyclicLR(sgd(), 0.1, 0.6, scale_fn=lambda x: 0.5),
            BadValueError,
            "CyclicLR has a scale_fn of your own",
        ),
        (lambda: Own(sgd()), BadValueError, "Own is not a class of torch.optim.lr_scheduler"),
        (_seen, BadValueError, "has seen 1 metrics and keeps no log"),
        (_moved, BadValueError, r"current rate of group 0 at step 0 is 0\.123, but the arguments"),
        (_nested, BadValueError, "SequentialLR holds a SequentialLR"),
        (_overwritten, BadValueError, "current rate of group 0 at step 0"),
        (
            lambda: _chain(
                lambda o: peer.CosineAnnealingLR(o, 9, 0.1), lambda o: peer.ExponentialLR(o, 0.9)
            ),
            BadValueError,
            "ChainedScheduler holds a CosineAnnealingLR with eta_min",
        ),
        (
            lambda: _chain(
                lambda o: peer.StepLR(o, 9), lambda o: peer.CosineAnnealingWarmRestarts(o, 9)
            ),
            BadValueError,
            "ChainedScheduler holds a CosineAnnealingWarmRestarts",
        ),
        (lambda: 0.1, BadTypeError, "float is not an LRScheduler of torch"),
        (
            lambda: Scheduler(sgd(), momentum=warmup(5)),
            BadValueError,
            "this Scheduler does not set the rate of group 0",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(make, error, message):
    with pytest.raises(error, match=message):
        from_torch(make())


def test_bad_arguments():
    scheduler = peer.StepLR(sgd(), 5)
    with pytest.raises(BadValueError, match="group is 3; the optimizer has groups 0 to 0"):
        from_torch(scheduler, group=3)
    with pytest.raises(UnknownNameError, match="unknown hyperparameter 'eps'"):
        from_torch(scheduler, hyperparameter="eps")
    with pytest.raises(BadValueError, match="StepLR does not schedule the momentum"):
        from_torch(scheduler, hyperparameter="momentum")


def test_two_schedulers_on_one_optimizer_are_noticed():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    first, second = peer.StepLR(optimizer, 2), peer.ExponentialLR(optimizer, 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first.step()
        second.step()
    with pytest.raises(BadValueError, match="another scheduler, a loaded optimizer or your own"):
        from_torch(first)
