"""Schedules in optax: a function of the step count that can be jitted and pickled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from etude.interop._peer import load
from etude.interop._text import bound, pure, within
from etude.optimizers.bounds import ANY, GENERAL
from etude.schedules import Schedule

__all__ = ["OptaxSchedule", "to_optax"]


@dataclass(frozen=True, slots=True, weakref_slot=True)
class OptaxSchedule:
    """A schedule as optax calls it: count → value, in jax's default precision.

    It is equal, hashable and picklable by value, as its schedule is, so that a training step that
    closes over it is compiled only once.

    Args:
        schedule: A bound schedule.
    """

    schedule: Schedule

    def __post_init__(self) -> None:
        pure(
            self.schedule,
            "optax",
            "Chain optax.contrib.reduce_on_plateau behind the optimizer, or set the rate of "
            "optax.inject_hyperparams to schedule.record(step, metric)(step) outside of the step",
        )

    def __call__(self, count: Any) -> Any:
        """Return the value at a count: an int, an array, or a traced one."""
        jnp = load("jax.numpy")
        if isinstance(count, int):  # float32 counts are exact only up to 2**24
            return jnp.asarray(self.schedule(count), dtype=float)
        return self.schedule(jnp.asarray(count))


def to_optax(schedule: Schedule | str, hyperparameter: str | None = "lr") -> OptaxSchedule:
    """Return a schedule for optax: `optax.sgd(to_optax(0.1 * cosine(10_000)))`.

    The values are those of the schedule, rounded to float32 unless jax has x64 enabled. Counts
    that are traced are float32 too, and exact up to 2**24.

    Args:
        schedule: A bound schedule, or its text.
        hyperparameter: The hyperparameter it is for ('lr', 'momentum', 'weight_decay', ...), whose
            bounds its values must keep; None for a factor of any sign, as in
            `optax.scale_by_schedule(to_optax(-0.1 * cosine(100), None))`.

    Returns:
        A callable that works under jit, grad and vmap.

    Raises:
        BadValueError: The schedule lacks a length, has a value out of the hyperparameter's bounds,
            or reacts to a metric, which optax does not report to a schedule.
        MissingExtraError: jax is not installed.

    Examples:
        >>> import jax
        >>> from etude.schedules import cosine, warmup
        >>> s = to_optax(0.5 * (warmup(10) >> cosine(90)))
        >>> float(jax.jit(s)(5))
        0.25
    """
    load("jax")
    made = OptaxSchedule(bound("schedule", schedule))
    if hyperparameter is not None:
        limits = GENERAL.get(hyperparameter, ANY)
        way_out = "for a factor of any sign, give to_optax(schedule, None)"
        within(limits, hyperparameter, made.schedule, way_out)
    return made
