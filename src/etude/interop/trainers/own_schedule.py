"""Reads a scheduler of torch as a factor of the rate, over the length of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from etude.errors import BadTypeError, BadValueError
from etude.interop.torch.convert import from_torch
from etude.interop.trainers.own_optimizer import rate_of
from etude.optimizers.hyperparameters import strided
from etude.schedules import Schedule, constant, parse, piecewise_constant
from etude.schedules.wrappers import Scale

EXACT = 20_000
"""The largest number of steps of which every one is looked at."""

MOST_STEPS = 5_000
"""The largest number of values that a schedule which is held for many updates may take."""


class OwnSchedule(NamedTuple):
    """What a scheduler does, apart from the rate.

    Attributes:
        factor: The factor of the rate.
        lr: The rate that it multiplies.
        others: Its schedules of other hyperparameters, such as a momentum that it cycles.
    """

    factor: Schedule
    lr: float
    others: dict[str, Schedule]


def relative(scheduler: Any, steps: int, owner: str) -> OwnSchedule:
    """Return a scheduler's values as a factor, and the rate that the factor multiplies.

    The rate is the one that the scheduler found in its optimizer, or its peak where that is higher,
    as with OneCycleLR.

    Args:
        scheduler: A scheduler of torch; it does not change.
        steps: The number of steps of the scheduler in a run.
        owner: What has it, for error messages.

    Raises:
        BadValueError: If its formula is unknown, or the groups' rates do not stay in proportion.
    """
    groups = scheduler.optimizer.param_groups
    bases = [rate_of(group) for group in groups]
    largest = max(range(len(groups)), key=bases.__getitem__)
    try:
        found = [from_torch(scheduler, group=place) for place in range(len(groups))]
    except (BadValueError, BadTypeError) as error:
        raise BadValueError(
            f"the scheduler of {owner} cannot be read: {error}; or give the schedule yourself, as "
            "in tune(..., schedule=\"warmup('5%') >> cosine()\")"
        ) from error
    main = found[largest]
    marks = list(range(steps + 1)) if steps <= EXACT else [*strided(steps), steps]
    peak = max(main.at(t) for t in marks) if not main.has_feedback else bases[largest]
    base = peak if peak > bases[largest] * (1 + 1e-6) else bases[largest]
    if not main.has_feedback:
        _check_proportion(found, marks, largest, owner)
    others = {}
    if getattr(scheduler, "cycle_momentum", False):
        others["momentum"] = from_torch(scheduler, group=largest, hyperparameter="momentum")
    return OwnSchedule(_over(main, base), base, others)


def _check_proportion(
    found: Sequence[Schedule], marks: Sequence[int], largest: int, owner: str
) -> None:
    main = found[largest]
    for place, other in enumerate(found):
        shares = {round(other.at(t) / main.at(t), 9) for t in marks if main.at(t) > 0}
        if len(shares) > 1:
            raise BadValueError(
                f"the scheduler of {owner} gives the groups rates that do not stay in a fixed "
                f"proportion: group {place} has {min(shares):g} to {max(shares):g} times the rate "
                f"of group {largest}. Give all groups the same shape of schedule"
            )


def _over(schedule: Schedule, base: float) -> Schedule:
    """Return a schedule divided by a number; of a multiple of it, the schedule it multiplies."""
    if isinstance(schedule, Scale) and math.isclose(schedule.factor, base, rel_tol=1e-12):
        return schedule.body
    return (1 / base) * schedule


def held(schedule: Schedule, counts: Sequence[int]) -> Schedule:
    """Return the schedule s(counts[t]): a scheduler that does not step at each update.

    Args:
        schedule: The values by the scheduler's own steps.
        counts: How often the scheduler stepped before each update; it does not fall.

    Raises:
        BadValueError: If there are too many different values.

    >>> from etude.schedules import linear
    >>> held(linear(4), [0, 0, 1, 1]).at(2)
    0.75
    """
    values = [schedule.at(count) for count in counts]
    changes = [t for t, (one, other) in enumerate(pairwise(values), 1) if one != other]
    if not changes:
        return constant(values[0])
    if len(changes) > MOST_STEPS:
        raise BadValueError(
            f"the schedule takes {len(changes):,} values that are each held for some updates, and "
            f"at most {MOST_STEPS:,} can be written down: let the scheduler step at each update"
        )
    return piecewise_constant(tuple(changes), (values[0], *(values[t] for t in changes)))


def as_schedule(value: Schedule | str) -> Schedule:
    """Return a schedule given as such, or as its text."""
    return value if isinstance(value, Schedule) else parse(value)
