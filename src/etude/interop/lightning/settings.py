"""What a Lightning Trainer says of a fit, read without changing it; refused where it cannot be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from etude.errors import BadTypeError, BadValueError
from etude.interop.trainers import rate_changes

PRECISIONS = {"32-true": "float32", "32": "float32", "bf16-mixed": "bfloat16"}

SINGLE = ("SingleDeviceStrategy",)
"""Strategies of one process on one device."""

CHANGES = {
    "StochasticWeightAveraging": "replaces the rates with its own towards the end",
    "GradientAccumulationScheduler": "changes the number of batches of an update",
    "LearningRateFinder": "sets another rate when the fit begins",
    "BatchSizeFinder": "changes the batch size when the fit begins",
    "BackboneFinetuning": "adds parameters to the optimizer during the fit",
    "ScheduleCallback": "writes the rates of a schedule",
}
"""Callbacks that change how a fit trains."""


@dataclass(frozen=True)
class FitSettings:
    """What a Trainer says of a fit.

    Attributes:
        max_steps: The largest number of updates; -1 for none.
        max_epochs: The number of epochs; -1 for no end.
        accumulate: Batches per update.
        clip_norm: The largest norm of the gradient.
        clip_value: The largest entry of the gradient.
        precision: As a recipe calls it.
        limit_train: Of the batches of an epoch, how many are used: a number, or a share.
        limit_val: The same for validation.
    """

    max_steps: int = -1
    max_epochs: int | None = None
    accumulate: int = 1
    clip_norm: float | None = None
    clip_value: float | None = None
    precision: str = "float32"
    limit_train: int | float = 1.0
    limit_val: int | float = 1.0


def settings_of(trainer: Any, library: Any, module: Any) -> FitSettings:
    """Read a Trainer; None is one with Lightning's defaults.

    Raises:
        BadTypeError: If it is not a Trainer.
        BadValueError: If a fit of it cannot be repeated in one process at one rate.
    """
    own = _callbacks(module)
    if trainer is None:
        _refuse_callbacks(own, library)
        return FitSettings()
    if not isinstance(trainer, library.Trainer):
        raise BadTypeError(
            f"trainer is a {type(trainer).__module__}.{type(trainer).__name__}: give a Trainer of "
            f"{library.__name__}, from which the module comes"
        )
    _refuse_strategy(trainer)
    _refuse_callbacks([*trainer.callbacks, *own], library)
    if trainer.overfit_batches:
        raise BadValueError(
            f"overfit_batches={trainer.overfit_batches}: rates are compared on held-out data; "
            "make a Trainer without it"
        )
    clip = trainer.gradient_clip_val or None
    by_value = str(getattr(trainer.gradient_clip_algorithm, "value", "norm")) == "value"
    return FitSettings(
        max_steps=trainer.max_steps,
        max_epochs=trainer.max_epochs,
        accumulate=trainer.accumulate_grad_batches,
        clip_norm=None if by_value else clip,
        clip_value=clip if by_value else None,
        precision=_precision(trainer.precision),
        limit_train=trainer.limit_train_batches,
        limit_val=trainer.limit_val_batches,
    )


def length_of(settings: FitSettings, batches: int | None, given: int | str | None) -> int | str:
    """Return the length of a run: what is given, or the Trainer's.

    Args:
        settings: The Trainer's settings.
        batches: The number of batches of an epoch; None if unknown.
        given: A number of updates, or a text such as '10 epochs'.

    Raises:
        BadValueError: If nothing says it.
    """
    if given is not None:
        return given
    epochs, steps = settings.max_epochs, settings.max_steps
    endless = epochs is None or epochs < 0
    if steps < 0 and endless:
        what = "neither max_epochs nor max_steps" if epochs is None else f"max_epochs={epochs}"
        raise BadValueError(
            f"the fit has {what}, and so no length: give Trainer(max_epochs=...) or "
            "Trainer(max_steps=...), or steps= a number of updates or a text such as '10 epochs'"
        )
    if endless:
        return steps
    if batches is None:
        if steps > 0:
            return steps
        raise BadValueError(
            f"max_epochs={epochs}, but the training data does not say how long an epoch is: give "
            "Trainer(max_steps=...), limit_train_batches=, or steps="
        )
    assert epochs is not None
    whole = math.ceil(batches / settings.accumulate) * epochs
    if whole < 1:
        raise BadValueError(f"max_epochs={epochs} of {batches} batches: there is no update to do")
    return min(whole, steps) if steps > 0 else whole


def limited(length: int | None, limit: int | float) -> int | None:
    """Return how many batches of a loader are used.

    >>> limited(10, 1.0), limited(10, 0.25), limited(10, 4), limited(None, 4)
    (10, 2, 4, 4)
    """
    if isinstance(limit, int):
        return limit if length is None else min(limit, length)
    return None if length is None else int(length * limit)


def _precision(name: Any) -> str:
    found = PRECISIONS.get(str(name))
    if found is None:
        why = (
            "needs a loss scaler, which a recipe does not have"
            if str(name).startswith("16")
            else "keeps the weights themselves in that precision, which a recipe does not"
        )
        raise BadValueError(
            f"precision={name!r} {why}: make a Trainer with precision='bf16-mixed' or '32-true' "
            "for the tuning, and use the rate in yours"
        )
    return found


def _refuse_strategy(trainer: Any) -> None:
    name = type(trainer.strategy).__name__
    if name in SINGLE and trainer.world_size == 1:
        return
    raise BadValueError(
        f"this Trainer trains with {name} on {trainer.world_size} devices: tune in one process on "
        "one device, with Trainer(devices=1, strategy='auto', accumulate_grad_batches="
        f"{trainer.accumulate_grad_batches * trainer.world_size}), so that an update has the same "
        "samples, and use the rate in yours"
    )


def _callbacks(module: Any) -> list[Any]:
    """Return the callbacks that a module adds itself."""
    found = type(module).configure_callbacks(module)
    return list(found) if isinstance(found, (list, tuple)) else [found]


def _refuse_callbacks(callbacks: list[Any], library: Any) -> None:
    base = library.callbacks.Callback
    for callback in callbacks:
        for kind in type(callback).__mro__:
            if kind.__name__ in CHANGES:
                raise BadValueError(
                    f"the callback {type(callback).__name__} {CHANGES[kind.__name__]}, which a "
                    "tuning would not follow: leave it out while tuning, and use the rate in your "
                    "Trainer with it, or give what it does as schedule="
                )
    rate_changes.refuse(
        [c for c in callbacks if not type(c).__module__.startswith(library.__name__)],
        base,
        "the Trainer",
    )
