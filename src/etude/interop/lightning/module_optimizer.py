"""Reads what `configure_optimizers` returns: one optimizer, and one scheduler at most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch.optim import Optimizer

from etude.errors import BadValueError, kind_of
from etude.interop.trainers.own_optimizer import OwnOptimizer, read_optimizer
from etude.interop.trainers.own_schedule import OwnSchedule, held, relative
from etude.schedules import constant

OWNER = "configure_optimizers"


class SchedulerConfig(NamedTuple):
    """A scheduler, and when it steps.

    Attributes:
        scheduler: The scheduler.
        interval: 'epoch' or 'step'.
        frequency: Every how many of them.
    """

    scheduler: Any
    interval: str = "epoch"
    frequency: int = 1


def configured(
    module: Any, length: int, batches: int | None, accumulate: int
) -> tuple[OwnOptimizer, OwnSchedule]:
    """Call `configure_optimizers` of a module, and read what it returns.

    Args:
        module: A copy of the module, attached to what it sees as its Trainer.
        length: The number of updates of the run.
        batches: The number of batches of an epoch; None if unknown.
        accumulate: The number of batches of an update.

    Raises:
        BadValueError: If it returns none or several optimizers, several schedulers, or one whose
            formula is unknown.
        TaskError: If the optimizer holds parameters of another model.
    """
    optimizers, schedulers = _listed(module.configure_optimizers())
    if len(optimizers) != 1:
        raise BadValueError(
            f"{OWNER} returned {len(optimizers)} optimizers, and one rate is looked for: put the "
            "parts into the parameter groups of one optimizer, whose rates stay in proportion; for "
            "parts that are updated in turn, such as a GAN, write a etude.Task with a step "
            "that yields (docs/tasks.md, 'Parts that take turns')"
        )
    if len(schedulers) > 1:
        raise BadValueError(
            f"{OWNER} returned {len(schedulers)} schedulers of one optimizer: join them in a "
            "SequentialLR or ChainedScheduler, or give schedule="
        )
    own = read_optimizer(optimizers[0], module, OWNER)
    if not schedulers:
        return own, OwnSchedule(constant(1), own.lr, {})
    return own, _read_scheduler(schedulers[0], length, batches, accumulate)


def _read_scheduler(
    config: SchedulerConfig, length: int, batches: int | None, accumulate: int
) -> OwnSchedule:
    if config.interval == "step" and config.frequency == 1:
        return relative(config.scheduler, length, OWNER)
    if batches is None:
        raise BadValueError(
            f"the scheduler of {OWNER} steps by the epoch, and the training data does not say how "
            "long an epoch is: give {'interval': 'step'}, or limit_train_batches="
        )
    counts = _counts(config, length, batches, accumulate)
    own = relative(config.scheduler, max(1, counts[-1]), OWNER)
    if own.factor.has_feedback:
        raise BadValueError(
            f"the scheduler of {OWNER} reacts to a metric by the epoch, where a recipe's plateau "
            "reacts at each evaluation: give schedule='plateau(...)' in its place"
        )
    others = {name: held(schedule, counts) for name, schedule in own.others.items()}
    return OwnSchedule(held(own.factor, counts), own.lr, others)


def _counts(config: SchedulerConfig, length: int, batches: int, accumulate: int) -> list[int]:
    """Return how often the scheduler has stepped before each update.

    Lightning lets it step after an update whose epoch, or whose batch within the epoch, is a
    multiple of the frequency, both counted from 1.
    """
    per_epoch = -(-batches // accumulate)
    counts = [0]
    for t in range(length - 1):
        epoch, place = divmod(t, per_epoch)
        if config.interval == "epoch":
            steps = place == per_epoch - 1 and (epoch + 1) % config.frequency == 0
        else:
            steps = min((place + 1) * accumulate, batches) % config.frequency == 0
        counts.append(counts[-1] + steps)
    return counts


def _listed(found: Any) -> tuple[list[Any], list[SchedulerConfig]]:
    """Return optimizers and schedulers from any of the forms that Lightning accepts."""
    if isinstance(found, Optimizer) or _is_optimizer(found):
        return [found], []
    if isinstance(found, Mapping):
        return _listed([found])
    if isinstance(found, (list, tuple)):
        if len(found) == 2 and isinstance(found[0], (list, tuple)):
            schedulers = found[1] if isinstance(found[1], (list, tuple)) else [found[1]]
            return list(found[0]), [_config(one) for one in schedulers]
        if found and all(isinstance(one, Mapping) for one in found):
            schedulers = [one["lr_scheduler"] for one in found if one.get("lr_scheduler")]
            return [one["optimizer"] for one in found], [_config(one) for one in schedulers]
        if found and all(_is_optimizer(one) for one in found):
            return list(found), []
    what = "nothing" if found is None else f"{kind_of(found)}"
    raise BadValueError(
        f"{OWNER} returned {what}: return an optimizer, or "
        "{'optimizer': ..., 'lr_scheduler': ...}"
    )


def _is_optimizer(value: Any) -> bool:
    return isinstance(value, Optimizer) or hasattr(value, "param_groups")


def _config(given: Any) -> SchedulerConfig:
    if isinstance(given, Mapping):
        return SchedulerConfig(
            given["scheduler"], given.get("interval", "epoch"), given.get("frequency", 1)
        )
    return SchedulerConfig(given)
