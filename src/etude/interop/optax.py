"""Schedules in optax: a function of the count that jits, and that can be pickled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from etude.interop._peer import load
from etude.interop._text import bound
from etude.schedules import Schedule

__all__ = ["OptaxSchedule", "to_optax"]


@dataclass(frozen=True, slots=True, weakref_slot=True)
class OptaxSchedule:
    """A schedule as optax calls it: count → value, in jax's default precision.

    It is a value: equal, hashable and picklable as its schedule is, so a step that closes over it
    is compiled once.

    Args:
        schedule: A bound schedule.
    """

    schedule: Schedule

    def __call__(self, count: Any) -> Any:
        """Return the value at a count: an int, an array, or a traced one."""
        jnp = load("jax.numpy")
        if isinstance(count, int):  # exact beyond 2**24, where float32 counts no longer are
            return jnp.asarray(self.schedule(count), dtype=float)
        return self.schedule(jnp.asarray(count))


def to_optax(schedule: Schedule | str) -> OptaxSchedule:
    """Return a schedule for optax: `optax.sgd(to_optax(0.1 * cosine(10_000)))`.

    The values are those of the schedule, rounded to float32 unless jax has x64 enabled. Counts
    that are traced are float32 too, and exact up to 2**24.

    Args:
        schedule: A bound schedule, or its text.

    Returns:
        A callable that works under jit, grad and vmap.

    Raises:
        BadValueError: The schedule lacks a length.
        MissingExtraError: jax is not installed.

    Examples:
        >>> import jax
        >>> from etude.schedules import cosine, warmup
        >>> s = to_optax(0.5 * (warmup(10) >> cosine(90)))
        >>> float(jax.jit(s)(5))
        0.25
    """
    load("jax")
    return OptaxSchedule(bound("schedule", schedule))
