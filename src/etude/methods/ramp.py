"""A ramp: a short run whose rate grows exponentially, as each library's range test raises it.

Smith 2017, arXiv:1506.01186, section 3.3, raises the rate linearly; the libraries named here raise
it exponentially.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from etude.methods.smoothing import Smoothing
from etude.progress import Bar, silent
from etude.recipe import Recipe
from etude.schedules import Schedule, constant, exponential, piecewise_interpolate
from etude.tasks.task import Task
from etude.training.request import AdvanceRequest
from etude.training.run import Run
from etude.training.state.state import RunState
from etude.trials.bad_batch import bad_batch


@dataclass(frozen=True)
class RampPlan:
    """How a library raises the rate, smooths the losses, and stops.

        rate of update t = low · (high / low)^(u / n),    u = t, or t + late where t > 0

    The ramp stops where the smoothed loss exceeds its lowest value by more than
    (factor - 1) · |lowest|; for positive losses: where it exceeds factor · lowest.

    Attributes:
        library: Whose convention it is.
        low: The first rate.
        high: The rate at u = n.
        late: By how many updates all rates but the first are ahead.
        fewer: By how much n is less than the number of updates.
        linear: Whether the rate grows linearly, low + (high - low) · u / n.
        smoothing: How the losses are smoothed.
        factor: How far above its lowest value the smoothed loss may rise.
    """

    library: str
    low: float
    high: float
    smoothing: Smoothing
    factor: float
    late: int = 0
    fewer: int = 0
    linear: bool = False

    def schedule(self, updates: int) -> Schedule:
        """Return the schedule of a ramp, whose peak multiplies the rate `low`.

        >>> plan = RampPlan("fastai", 1e-7, 10.0, Smoothing(0.98, 1), 4.0)
        >>> round(plan.schedule(100)(50))
        10000
        """
        growth, every = self.high / self.low, updates - self.fewer
        if self.linear:
            return piecewise_interpolate((0, every), (1.0, growth))
        ramp = exponential(gamma=growth, every=every)
        if not self.late:
            return ramp
        ahead: Schedule = growth ** ((1 + self.late) / every) * ramp
        return constant(1).take(1) >> ahead


FASTAI = RampPlan("fastai", 1e-7, 10.0, Smoothing(0.98, debias=1), 4.0)
LIGHTNING = RampPlan("Lightning", 1e-8, 1.0, Smoothing(0.98, debias=2), 4.0, late=1)
LR_FINDER = RampPlan("pytorch-lr-finder", 1e-7, 100.0, Smoothing(0.95), 5.0, fewer=1)
"""Each as its own documentation and defaults have it; pytorch-lr-finder as its README calls it."""


@dataclass(frozen=True)
class Ramp:
    """One ramp that was run.

    Attributes:
        plan: How the rate was raised.
        seed: The seed of its weights and batches.
        lrs: The rates, ascending.
        losses: The training loss of each update, computed before it.
        diverged: Whether a NaN or Inf ended it.
        cause: What is wrong with the batch that ended it, at any rate; else empty.
    """

    plan: RampPlan
    seed: int
    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    diverged: bool
    cause: str = ""

    @property
    def smoothed(self) -> tuple[float, ...]:
        """The losses as the library smooths them."""
        return self.plan.smoothing.of(self.losses)


def run_ramp(
    task: Task,
    recipe: Recipe,
    plan: RampPlan,
    updates: int,
    *,
    device: str | torch.device | None = None,
    show: Bar = silent,
) -> Ramp:
    """Train a new model for at most `updates` updates at a growing rate.

    Of the recipe, everything stays but the rate, its schedule, the length and what ends or mends a
    run: so it trains with its own optimizer, clipping, accumulation, precision and multipliers of
    the rate. Neither the task's model nor any random state changes.

    Args:
        task: What to learn.
        recipe: How.
        plan: How the rate is raised.
        updates: The largest number of updates.
        device: As in `etude.train`.
        show: Called with the progress.
    """
    short = recipe.replace(
        lr=plan.low,
        schedule=plan.schedule(updates),
        steps=updates,
        early_stopping=None,
        spikes=None,
    )
    run = Run(task, short, device=device)
    run.check()
    run.read_losses_every(1)
    watched = _Stop(run, plan)

    def on_step(state: RunState, step: int) -> None:
        show(step, updates, f"seed {recipe.seed}")

    run.advance(AdvanceRequest(stop=watched, on_step=on_step))
    finite = [
        (lr, loss)
        for lr, loss in zip(run.series["lr"], run.series["loss"], strict=False)
        if math.isfinite(loss)
    ]
    return Ramp(
        plan,
        recipe.seed,
        tuple(lr for lr, _ in finite),
        tuple(loss for _, loss in finite),
        run.diverged,
        bad_batch(Run(task, short, device=device), run.step) if run.diverged else "",
    )


class _Stop:
    """Called before every update: whether the smoothed loss has risen too far."""

    def __init__(self, run: Run, plan: RampPlan) -> None:
        self.run, self.plan = run, plan
        self.smooth = plan.smoothing.begin()
        self.seen, self.lowest, self.stopped = 0, math.inf, False

    def __call__(self) -> bool:
        losses: Sequence[float] = self.run.series["loss"]
        for loss in losses[self.seen :]:
            value = self.smooth.add(loss)
            self.lowest = min(self.lowest, value)
            rise = value - self.lowest
            self.stopped |= rise > (self.plan.factor - 1) * abs(self.lowest)
        self.seen = len(losses)
        return self.stopped
