"""Converts a scheduler of torch or transformers to a schedule with the same values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch.optim import lr_scheduler as peer
from torch.optim.lr_scheduler import LRScheduler

from etude.errors import BadTypeError, BadValueError, unknown_name
from etude.interop.parity import torch as parity
from etude.interop.torch.convert_lambda import from_lambda
from etude.schedules import Schedule
from etude.torch_internals import annealing_of, milestones_of, own_scale_of, parts_of, phases_of

_TOLERANCE = 1e-6


def from_torch(scheduler: Any, *, group: int | None = None, hyperparameter: str = "lr") -> Schedule:
    """Return a schedule with the values of a scheduler, from its step 0 on.

    All classes of `torch.optim.lr_scheduler` are supported, and all schedulers of transformers'
    `get_scheduler`. If a class has a known defect, the schedule has the right values; see
    `etude.interop.parity.torch`. The scheduler itself is not changed.

    Args:
        scheduler: The scheduler, at any step; a `ReduceLROnPlateau` must be at its start,
            because it keeps no log of its metrics.
        group: The number of a parameter group; None if all groups have the same rate.
        hyperparameter: 'lr', or 'momentum' of a `OneCycleLR` or `CyclicLR`.

    Returns:
        The schedule, in absolute values.

    Raises:
        BadValueError: It cannot be converted; the message gives the reason, such as a user's own
            function, groups that differ, or rates that other code changed.
        BadTypeError: It is not a scheduler.

    Examples:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        >>> from_torch(torch.optim.lr_scheduler.StepLR(optimizer, step_size=30))
        0.1 * step(30, 0.1)
    """
    if not isinstance(scheduler, LRScheduler):
        raise BadTypeError(
            f"{_name(scheduler)} is not an LRScheduler of torch, so it cannot be converted"
            + (
                ": it raises the rate again when the metric improves, which no schedule here does"
                if _name(scheduler) == "GreedyLR"
                else ""
            )
        )
    if hyperparameter not in ("lr", "momentum"):
        raise unknown_name("hyperparameter", hyperparameter, ("lr", "momentum"))
    count = len(scheduler.optimizer.param_groups)
    if group is not None and not 0 <= group < count:
        raise BadValueError(f"group is {group}; the optimizer has groups 0 to {count - 1}")
    places = range(count) if group is None else [group]
    found = [_read(scheduler, place, hyperparameter) for place in places]
    if any(s != found[0] for s in found):
        raise BadValueError(
            "the groups have different rates: convert one with from_torch(scheduler, group=0), or "
            "each, for Scheduler(optimizer, lr=[from_torch(scheduler, group=i) for i in ...])"
        )
    if hyperparameter == "lr":
        for place, schedule in zip(places, found, strict=True):
            _check_live(scheduler, place, schedule)
    return found[0]


def _read(scheduler: LRScheduler, place: int, hyperparameter: str) -> Schedule:
    if hyperparameter == "momentum":
        return _momentum(scheduler, place)
    reader = _READERS.get(type(scheduler))
    if reader is not None:
        return reader(scheduler, place)
    columns = getattr(scheduler, "_columns", None)
    if columns is not None:  # a Scheduler of Etude
        return _own(scheduler, place)
    raise BadValueError(
        f"{_name(scheduler)} is not a class of torch.optim.lr_scheduler: its formula is unknown. "
        f"Known classes: {', '.join(sorted(c.__name__ for c in _READERS))}"
    )


def _own(scheduler: Any, place: int) -> Schedule:
    group = scheduler.optimizer.param_groups[place]
    for column in scheduler._current:
        entry = column.of(place, group) if column.name == "lr" else None
        if entry is not None:
            schedule: Schedule = entry.schedule
            return scheduler.base_lrs[place] * schedule if entry.relative else schedule
    raise BadValueError(f"this Scheduler does not set the rate of group {place}")


def _check_live(scheduler: Any, place: int, schedule: Schedule) -> None:
    """Raise if the current rate shows that something besides the scheduler changed it."""
    step = _step(scheduler)
    if isinstance(scheduler, peer.OneCycleLR):
        step = min(step, scheduler.total_steps - 1)  # beyond it torch rebounds
    live = float(scheduler.optimizer.param_groups[place]["lr"])
    expected = schedule(step)
    scale = max(abs(live), abs(expected), abs(float(_base(scheduler, place))))
    if not math.isclose(live, expected, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE * scale):
        raise BadValueError(
            f"the current rate of group {place} at step {step} is {live:.6g}, but the arguments "
            f"of {_name(scheduler)} give {expected:.6g}: another scheduler, a "
            "loaded optimizer or your own code changed it, so the converted schedule would differ. "
            "Create the schedule from its arguments with etude.interop.parity"
        )


def _step(scheduler: Any) -> int:
    while isinstance(scheduler, peer.ChainedScheduler):
        scheduler = parts_of(scheduler)[0]
    return int(scheduler.last_epoch)


def _base(scheduler: Any, place: int) -> Any:
    """Return the rate that the scheduler multiplies for a group."""
    if isinstance(scheduler, peer.SequentialLR | peer.ChainedScheduler):
        return _base(parts_of(scheduler)[0], place)
    if isinstance(scheduler, peer.ReduceLROnPlateau):
        return scheduler.optimizer.param_groups[place]["lr"]
    return scheduler.base_lrs[place]


def _multi_step(s: Any, place: int) -> Schedule:
    milestones = sorted(s.milestones.elements())
    return parity.MultiStepLR(_rate(s, place), milestones, s.gamma)


def _polynomial(s: Any, place: int) -> Schedule:
    return parity.PolynomialLR(_rate(s, place), s.total_iters, s.power)


def _restarts(s: Any, place: int) -> Schedule:
    return parity.CosineAnnealingWarmRestarts(_rate(s, place), s.T_0, s.T_mult, s.eta_min)


def _cyclic(s: Any, place: int) -> Schedule:
    up, down = _cycle(s)
    return parity.CyclicLR(
        float(s.base_lrs[place]), float(s.max_lrs[place]), up, down, s.mode, s.gamma
    )


def _cycle(s: Any) -> tuple[Any, Any]:
    if own_scale_of(s) is not None:
        raise BadValueError(
            "CyclicLR has a scale_fn of your own, whose formula is unknown: multiply "
            "triangular(...) by a schedule, or by function(name) of a registered function"
        )
    up = s.total_size * s.step_ratio
    nearest = float(round(up))
    up = nearest if math.isclose(up, nearest, rel_tol=1e-12) else up
    return up, s.total_size - up


def _one_cycle(s: Any, place: int) -> Schedule:
    group = s.optimizer.param_groups[place]
    peak, first, last = (float(group[k]) for k in ("max_lr", "initial_lr", "min_lr"))
    return parity.OneCycleLR(
        peak,
        s.total_steps,
        _pct_start(s),
        annealing_of(s),
        peak / first,
        first / last,
        len(phases_of(s)) == 3,
    )


def _pct_start(s: Any) -> float:
    return float((phases_of(s)[0]["end_step"] + 1.0) / s.total_steps)


def _plateau(s: Any, place: int) -> Schedule:
    if s.last_epoch != 0:
        raise BadValueError(
            f"ReduceLROnPlateau has seen {s.last_epoch} metrics and keeps no log of them, so its "
            "state cannot be replayed: convert it before its first step, and record the metrics"
        )
    return parity.ReduceLROnPlateau(
        _rate(s, place),
        s.mode,
        s.factor,
        s.patience,
        s.threshold,
        s.threshold_mode,
        s.cooldown,
        float(s.min_lrs[place]),
        s.eps,
    )


def _sequential(s: Any, place: int) -> Schedule:
    for part in parts_of(s):
        if isinstance(part, peer.SequentialLR | peer.ChainedScheduler):
            raise BadValueError(
                f"SequentialLR holds a {_name(part)}, whose steps torch counts wrongly there: join "
                "the schedules with >> instead"
            )
    return parity.SequentialLR([_read(p, place, "lr") for p in parts_of(s)], milestones_of(s))


def _chained(s: Any, place: int) -> Schedule:
    parts = parts_of(s)
    if len(parts) == 1:
        return _read(parts[0], place, "lr")
    for part in parts:
        floor = isinstance(part, peer.CosineAnnealingLR) and part.eta_min != 0
        if type(part) not in _FACTORS or floor:
            raise BadValueError(
                f"ChainedScheduler holds a {_name(part)}{' with eta_min' if floor else ''}, which "
                "does not multiply the rate, so the values of the chain are not a product. "
                "Multiply the schedules with * instead"
            )
    if len({part.last_epoch for part in parts}) > 1:
        raise BadValueError("the schedulers of the ChainedScheduler are at different steps")
    lr = _rate(parts[0], place)
    product = lr * _factor(parts[0])
    for part in parts[1:]:
        product = product * _factor(part)
    return product


def _factor(part: Any) -> Schedule:
    """Return a multiplicative scheduler as a factor; a cosine ends, since factors cannot rise."""
    from etude.schedules import cosine

    if isinstance(part, peer.CosineAnnealingLR):
        return cosine(part.T_max)
    return _READERS[type(part)](_Unit(part), 0)


class _Unit:
    """A scheduler as it would be with a rate of 1."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self.base_lrs = [1.0]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheduler, name)


def _momentum(s: Any, place: int) -> Schedule:
    if not getattr(s, "cycle_momentum", False):
        raise BadValueError(f"{_name(s)} does not schedule the momentum")
    if isinstance(s, peer.CyclicLR):
        low, high = float(s.base_momentums[place]), float(s.max_momentums[place])
        return parity.CyclicLR_momentum(low, high, *_cycle(s), s.mode, s.gamma)
    group = s.optimizer.param_groups[place]
    return parity.OneCycleLR_momentum(
        s.total_steps,
        _pct_start(s),
        annealing_of(s),
        float(group["base_momentum"]),
        float(group["max_momentum"]),
        len(phases_of(s)) == 3,
    )


def _lambda(s: Any, place: int) -> Schedule:
    return from_lambda(s.lr_lambdas[place], _rate(s, place))


def _multiplicative(s: Any, place: int) -> Schedule:
    raise BadValueError(
        "MultiplicativeLR multiplies the current rate by a function of your own at each step, so "
        "its values have no closed form: write their product as a schedule"
    )


def _rate(s: Any, place: int) -> float:
    return float(_base(s, place))


def _name(value: object) -> str:
    return type(value).__name__


_READERS: dict[type[Any], Callable[[Any, int], Schedule]] = {
    peer.LambdaLR: _lambda,
    peer.MultiplicativeLR: _multiplicative,
    peer.StepLR: lambda s, i: parity.StepLR(_rate(s, i), s.step_size, s.gamma),
    peer.MultiStepLR: _multi_step,
    peer.ConstantLR: lambda s, i: parity.ConstantLR(_rate(s, i), s.factor, s.total_iters),
    peer.LinearLR: lambda s, i: parity.LinearLR(
        _rate(s, i), s.start_factor, s.end_factor, s.total_iters
    ),
    peer.ExponentialLR: lambda s, i: parity.ExponentialLR(_rate(s, i), s.gamma),
    peer.PolynomialLR: _polynomial,
    peer.CosineAnnealingLR: lambda s, i: parity.CosineAnnealingLR(_rate(s, i), s.T_max, s.eta_min),
    peer.CosineAnnealingWarmRestarts: _restarts,
    peer.CyclicLR: _cyclic,
    peer.OneCycleLR: _one_cycle,
    peer.ReduceLROnPlateau: _plateau,
    peer.SequentialLR: _sequential,
    peer.ChainedScheduler: _chained,
}
"""The schedule of each class of torch; the tests check that none is missing."""

_FACTORS = (
    peer.StepLR,
    peer.MultiStepLR,
    peer.ConstantLR,
    peer.LinearLR,
    peer.ExponentialLR,
    peer.PolynomialLR,
    peer.CosineAnnealingLR,
)
"""Classes that multiply the current rate, so that a chain of them is a product."""
