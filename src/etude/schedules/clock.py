"""The clock of a training run: turns epochs, samples, tokens and percent into steps."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from etude.errors import BadValueError
from etude.schedules._numbers import (
    Duration,
    Steps,
    count,
    duration,
    exact,
    flag,
    nearest,
    number,
    split,
    steps,
)

_NEEDS = {
    "epochs": "steps_per_epoch",
    "samples": "samples_per_step",
    "tokens": "tokens_per_step",
}


@dataclass(frozen=True, slots=True)
class Clock:
    """The length of a run, and the epochs, samples and tokens of one step.

    A step is one optimizer update over all processes, accumulation included. If one step takes u
    of a unit, a duration of d units is d/u steps, rounded to the nearest whole step, halves up.

    Args:
        horizon: Length of the whole run, in steps or in any unit that this clock defines, except
            percent.
        steps_per_epoch: Updates per pass over the data.
        samples_per_step: Samples per update, summed over micro-batches and processes.
        tokens_per_step: Tokens per update, summed over micro-batches and processes.

    Raises:
        BadValueError: A number is not positive and finite, or the horizon's unit is not defined.

    Examples:
        >>> clock = Clock(horizon="90 epochs", steps_per_epoch=100, samples_per_step=64)
        >>> clock.horizon, clock.steps("5%"), clock.steps("2 epochs"), clock.steps("1e5 samples")
        (9000, 450, 200, 1563)
    """

    horizon: Any = None
    steps_per_epoch: Steps | None = None
    samples_per_step: Steps | None = None
    tokens_per_step: Steps | None = None

    def __post_init__(self) -> None:
        for name in ("steps_per_epoch", "samples_per_step", "tokens_per_step"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, steps(name, value, above=0.0))
        if self.horizon is not None:
            wanted = duration("horizon", self.horizon, above=0.0)
            if isinstance(wanted, str) and wanted.endswith("%"):
                raise BadValueError(
                    f"horizon is {self.horizon!r}; percent is measured against the horizon, "
                    "so give it in steps, epochs, samples or tokens"
                )
            horizon = self.steps(wanted)
            if horizon == 0:
                raise BadValueError(f"horizon is {self.horizon!r}; that is less than one step")
            object.__setattr__(self, "horizon", horizon)

    @classmethod
    def of_data(
        cls,
        samples: int,
        batch_size: int,
        *,
        accumulation: int = 1,
        world_size: int = 1,
        tokens_per_sample: float | None = None,
        drop_last: bool = False,
        across_epochs: bool = True,
        horizon: Duration | None = None,
    ) -> Clock:
        """Return the clock of a data loader.

        One step takes batch_size · accumulation · world_size samples. Each process reads
        ⌈samples / world_size⌉ samples per epoch (as torch's `DistributedSampler` pads them), or
        ⌊…⌋ with `drop_last`; its batches are rounded in the same way. An update takes the next
        `accumulation` batches, also across the end of an epoch, as in `etude.train`: 10 batches
        with accumulation 3 are 10/3 updates per epoch. `etude.train` batches tensors and datasets
        as with `drop_last`, and uses a `DataLoader` as it is.

        Args:
            samples: Samples in the data set, over all processes.
            batch_size: Samples per forward pass of one process.
            accumulation: Forward passes per update.
            world_size: Number of processes that train together, each on its own share of the data.
            tokens_per_sample: Mean number of tokens in a sample, for durations in tokens.
            drop_last: Whether an incomplete batch at the end of an epoch is dropped.
            across_epochs: Whether an update may take batches of two epochs. If False, as in
                Lightning and the Hugging Face Trainer, the last batches of an epoch form a
                separate update even if they are few, or none with `drop_last`.
            horizon: Length of the run, in any unit but percent.

        Returns:
            The clock, in optimizer updates.

        Raises:
            BadValueError: A count is not a positive whole number, or an epoch has no step.

        Examples:
            >>> Clock.of_data(50_000, 32, accumulation=4, world_size=2, horizon="3 epochs")
            Clock(horizon=587, steps_per_epoch=195.5, samples_per_step=256, tokens_per_step=None)
        """
        batches = count("samples", samples)
        flag("drop_last", drop_last)
        flag("across_epochs", across_epochs)
        consumed = count("accumulation", accumulation)
        for name, size in {"world_size": world_size, "batch_size": batch_size}.items():
            whole = count(name, size)
            consumed *= whole
            batches = batches // whole if drop_last else -(-batches // whole)
        per_epoch = updates_per_epoch(
            batches, accumulation, across_epochs=across_epochs, drop_last=drop_last
        )
        if not per_epoch:
            needed = consumed // accumulation if across_epochs else consumed
            raise BadValueError(
                f"samples is {samples}, fewer than the {needed} of one "
                f"{'batch' if across_epochs else 'step'}, and drop_last drops them all: give more "
                "samples, a smaller batch or drop_last=False"
            )
        tokens = None
        if tokens_per_sample is not None:
            tokens = consumed * number("tokens_per_sample", tokens_per_sample, above=0.0)
        return cls(horizon, per_epoch, consumed, tokens)

    def steps(self, duration: Duration) -> Steps:
        """Return a duration in steps.

        Args:
            duration: A number of steps, or text with a unit.

        Returns:
            Steps: unchanged if the duration is in steps, otherwise the nearest whole number.

        Raises:
            BadValueError: The clock does not define the unit.

        Examples:
            >>> Clock(horizon=10_000).steps("0.5%")
            50
        """
        return in_steps(self, "duration", duration)

    def step(self, passes: int, *, accumulation: int = 1, skipped: int = 0) -> int:
        """Return the number of the update that a forward pass belongs to.

        step = ⌊passes / accumulation⌋ − skipped. Forward passes under accumulation and updates
        that a loss scaler skipped do not advance a schedule, nor does the number of processes.

        Args:
            passes: Forward passes that one process has finished.
            accumulation: Forward passes per update.
            skipped: Updates that were not applied, for example on overflow in half precision.

        Returns:
            Updates applied so far: the step to evaluate a schedule at.

        Raises:
            BadValueError: More updates were skipped than there were.

        Examples:
            >>> Clock().step(1_000, accumulation=4, skipped=3)
            247
        """
        done = count("passes", passes, at_least=0) // count("accumulation", accumulation)
        lost = count("skipped", skipped, at_least=0)
        if lost > done:
            raise BadValueError(f"skipped is {lost}; it must be at most {done}, the updates so far")
        return done - lost


def updates_per_epoch(
    batches: int, accumulation: int = 1, *, across_epochs: bool = True, drop_last: bool = False
) -> Steps:
    """Return the number of updates in one pass over the data; all training loops use this rule.

    Args:
        batches: Batches in an epoch, of one process.
        accumulation: Batches per update.
        across_epochs: Whether an update may take batches of two epochs, which gives
            batches/accumulation updates per epoch on average; else the last update of an epoch
            takes the batches that are left.
        drop_last: Whether to leave out an update of fewer batches; only used without
            across_epochs.

    >>> updates_per_epoch(9, 2), updates_per_epoch(9, 2, across_epochs=False)
    (4.5, 5)
    """
    if across_epochs and batches % accumulation:
        return batches / accumulation
    return batches // accumulation if across_epochs or drop_last else -(-batches // accumulation)


def in_steps(clock: Clock, name: str, value: Duration) -> Steps:
    """Return a duration in steps; `name` is its name in error messages."""
    wanted = duration(name, value)
    if not isinstance(wanted, str):
        return wanted
    amount, unit = split(name, wanted)
    if unit == "%":
        if clock.horizon is None:
            raise BadValueError(
                f"{name} is {wanted!r}, a share of a horizon that is not known: "
                "call .over(10_000), or give Clock(horizon=...)"
            )
        return nearest(exact(amount) * exact(clock.horizon) / 100)
    known = getattr(clock, _NEEDS[unit])
    if known is None:
        raise BadValueError(
            f"{name} is {wanted!r}, but the clock does not know {_NEEDS[unit]}: "
            f"call .over(Clock(horizon=..., {_NEEDS[unit]}=...))"
        )
    if unit == "epochs":
        return nearest(exact(amount) * exact(known))
    return nearest(Fraction(exact(amount)) / exact(known))


def as_clock(horizon: Duration | Clock) -> Clock:
    """Return a clock: `horizon` itself if it is a clock, else a clock of that length."""
    return horizon if isinstance(horizon, Clock) else Clock(horizon=horizon)
