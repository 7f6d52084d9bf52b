"""Converts the function of a `LambdaLR`, if transformers made it or it is registered."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from etude.errors import BadValueError
from etude.interop.parity import transformers as parity
from etude.schedules import Schedule, constant, function
from etude.schedules.kinds.function import FUNCTIONS

_HOME = "transformers.optimization"


def from_lambda(lr_lambda: Any, lr: float) -> Schedule:
    """Return the schedule lr · f(t), for a function f of `LambdaLR`.

    Args:
        lr_lambda: A function that transformers made, or one that is registered.
        lr: The rate that it multiplies.

    Returns:
        The schedule.

    Raises:
        BadValueError: It is a function of the user's own, whose formula is unknown.
    """
    for name, (known, _) in FUNCTIONS.items():
        if known is lr_lambda:
            return lr * function(name)
    inner: Any = lr_lambda
    given: dict[str, Any] = {}
    if isinstance(lr_lambda, partial) and not lr_lambda.args:
        inner, given = lr_lambda.func, lr_lambda.keywords
    name = getattr(inner, "__name__", type(inner).__name__)
    reader = _READERS.get(name) if getattr(inner, "__module__", None) == _HOME else None
    if reader is None:
        raise BadValueError(
            f"LambdaLR calls {name}, a function of your own, whose formula is unknown: register it "
            "with register('mine', f) and convert the scheduler again, or write "
            "lr * function('mine')"
        )
    return reader(lr, dict(given))


def _cosine(lr: float, given: dict[str, Any]) -> Schedule:
    floor = given.pop("min_lr_rate", 0.0)
    if floor == 0.0:
        return parity.get_cosine_schedule_with_warmup(lr, **given)
    return parity.get_cosine_with_min_lr_schedule_with_warmup(lr, **given, min_lr_rate=floor)


def _polynomial(lr: float, given: dict[str, Any]) -> Schedule:
    # transformers divides by the optimizer's default rate, even if a group has another rate.
    default = float(given.pop("lr_init"))
    schedule = parity.get_polynomial_decay_schedule_with_warmup(default, **given)
    return schedule if lr == default else lr / default * schedule


_READERS: dict[str, Callable[[float, dict[str, Any]], Schedule]] = {
    "_get_constant_lambda": lambda lr, given: constant(lr),
    "_get_constant_schedule_with_warmup_lr_lambda": lambda lr, given: (
        parity.get_constant_schedule_with_warmup(lr, **given)
    ),
    "_get_linear_schedule_with_warmup_lr_lambda": lambda lr, given: (
        parity.get_linear_schedule_with_warmup(lr, **given)
    ),
    "_get_cosine_schedule_with_warmup_lr_lambda": _cosine,
    "_get_cosine_with_hard_restarts_schedule_with_warmup_lr_lambda": lambda lr, given: (
        parity.get_cosine_with_hard_restarts_schedule_with_warmup(lr, **given)
    ),
    "_get_polynomial_decay_schedule_with_warmup_lr_lambda": _polynomial,
    "_get_inverse_sqrt_schedule_lr_lambda": lambda lr, given: parity.get_inverse_sqrt_schedule(
        lr, **given
    ),
    "_get_cosine_with_min_lr_schedule_with_warmup_lr_rate_lambda": lambda lr, given: (
        parity.get_cosine_with_min_lr_schedule_with_warmup_lr_rate(lr, **given)
    ),
    "_get_wsd_scheduler_lambda": lambda lr, given: parity.get_wsd_schedule(lr, **given),
}
"""The schedule of each function of transformers, by its name there."""
