"""Checks the length of a recipe, and the conditions that involve several fields."""

from __future__ import annotations

from collections.abc import Mapping

from etude.errors import BadTypeError, BadValueError, as_whole, shown
from etude.optimizers.row import OptimizerRow
from etude.recipe_spikes import SpikePolicy, ZClip
from etude.schedules import Clock, Schedule


def run_length(value: object) -> int | str:
    """Return a run's length: a plain count of updates, or text with a unit other than percent.

    Raises:
        BadTypeError: If it is neither.
        BadValueError: If it is out of bounds.

    >>> run_length(40), run_length(1e3), run_length("20 epochs")
    (40, 1000, '20 epochs')
    """
    if isinstance(value, str):
        if value.strip().endswith("%"):
            raise BadValueError(
                f"steps={value!r}: a run's length is not a percentage: give steps or epochs"
            )
        least = 10**9  # of any data so much makes more than an update, unless it is none
        if not Clock(steps_per_epoch=least, samples_per_step=1, tokens_per_step=1).steps(value):
            raise BadValueError(
                f"steps={value!r} is out of bounds: give more than 0, such as '20 epochs'"
            )
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    count = as_whole(value)
    if count is None:
        raise BadTypeError(
            f"steps={shown(value)}: give a whole number, such as 1000, or text such as '20 epochs'"
        )
    if count < 1:
        raise BadValueError(f"steps={shown(value)} is out of bounds: give at least 1")
    return count


def check_schedules(
    row: OptimizerRow, schedule: Schedule, schedules: Mapping[str, Schedule]
) -> None:
    """Raise for schedules that an optimizer or a run cannot follow.

    Args:
        row: The optimizer's row in the table.
        schedule: The schedule of the rate.
        schedules: Those of other hyperparameters, by name.

    Raises:
        BadValueError: If the optimizer lacks a hyperparameter or cannot change it, or a schedule
            reacts to what training does not report.
    """
    for name in schedules:
        _check_name(row, name)
    for one in (schedule, *schedules.values()):
        if "gradient" in one.signals:
            raise BadValueError(
                f"schedule {one!r} reacts to the gradient, which training does not report "
                "to schedules: record it in your own training loop, or use plateau()"
            )
        if len(one.signals) > 1:
            raise BadValueError(
                f"schedule {one!r} reacts to the validation loss in one part and to the "
                "metric in another: make all parts react to the same, with on='loss' or "
                "on='metric'"
            )


def _check_name(row: OptimizerRow, name: str) -> None:
    if name == "lr":
        raise BadValueError("schedules['lr']: give the rate's schedule as the field 'schedule'")
    if row.scheduled(name) is not None:
        return
    if name in row.hyperparameters:
        fix = "schedule 'momentum', the first beta" if name == "betas" else "give it a fixed value"
        raise BadValueError(
            f"schedules[{name!r}]: {row.name} cannot change it during training: {fix}"
        )
    if name == "momentum":
        raise BadValueError(f"schedules['momentum']: {row.name} has no momentum")
    usable = ", ".join(row.hyperparameters)
    raise BadValueError(
        f"schedules[{shown(name)}]: {row.name} has no such hyperparameter; it has {usable}"
    )


def check_clipping(
    row: OptimizerRow, clipped: Mapping[str, float], spikes: SpikePolicy | None
) -> None:
    """Raise for clipping that an optimizer, or another way of clipping, does not allow.

    Args:
        row: The optimizer's row in the table.
        clipped: The fields that clip the gradient, with their values.
        spikes: What is done at a spike.

    Raises:
        BadValueError: If the optimizer needs the true gradient, or two fields clip by the norms of
            the run so far.
    """
    fields = {**clipped, **({"spikes": spikes} if isinstance(spikes, ZClip) else {})}
    if row.closure and fields:
        name, value = next(iter(fields.items()))
        raise BadValueError(
            f"{name}={value!r}: {row.name} compares losses along its "
            "step, which needs the true gradient: leave clipping out"
        )
    if isinstance(spikes, ZClip) and "clip_percentile" in clipped:
        raise BadValueError(
            f"spikes={spikes!r} and clip_percentile={clipped['clip_percentile']:g} both clip the "
            "norm by those before it: leave one out"
        )


def check_precision(row: OptimizerRow, precision: str) -> None:
    """Raise for a precision in which an optimizer cannot be trained.

    Args:
        row: The optimizer's row in the table.
        precision: The precision of the forward pass.

    Raises:
        BadValueError: If the loss must be scaled, and the optimizer computes it by itself.
    """
    if precision == "float16" and row.closure:
        raise BadValueError(
            f"precision='float16' scales the loss, and {row.name} compares losses along its step: "
            "give precision='bfloat16' or 'float32'"
        )
