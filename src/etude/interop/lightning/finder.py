"""`Tuner(trainer).lr_find` as Lightning has it: a ramp of the rate, read off reliably.

Lightning's finder changes the Trainer and puts it back from a checkpoint; reads the rate off by a
gradient along the rate itself, which noise at its start decides; and returns None where the ramp is
short. Here a copy is trained, several ramps are run, and the rule is fastai's valley.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from etude.errors import BadValueError, check_whole
from etude.interop._peer import load
from etude.interop.lightning.module_task import read
from etude.interop.lightning.rate_attribute import USUAL, attribute_of, rate_in, set_rate
from etude.interop.trainers.own_optimizer import OwnOptimizer
from etude.methods.ramp import Ramp, RampPlan, run_ramp
from etude.methods.ramp_rules import valley
from etude.methods.smoothing import Smoothing

REPEATS = 3
"""The number of ramps, each with another seed."""

LEAST = 4
"""The smallest number of points from which a rate is read."""


@dataclass(eq=False)
class RateFinder:
    """The ramps of the rate, and what they suggest. Has the attributes of Lightning's finder.

    Attributes:
        mode: 'exponential' or 'linear'.
        lr_min: The first rate.
        lr_max: The last rate.
        num_training: The number of updates of a ramp.
        ramps: The ramps, at the rates of the parameter group with the highest one.
        share: The module's own rate over that of this group; all rates here are the module's.
    """

    mode: str
    lr_min: float
    lr_max: float
    num_training: int
    ramps: tuple[Ramp, ...]
    share: float = 1.0

    @property
    def results(self) -> dict[str, list[float]]:
        """The rates of the first ramp under 'lr', and its smoothed losses under 'loss'."""
        first = self.ramps[0]
        return {"lr": self._own(first), "loss": list(first.smoothed)}

    def _own(self, ramp: Ramp) -> list[float]:
        return [lr * self.share for lr in ramp.lrs]

    def suggestion(self, skip_begin: int = 10, skip_end: int = 1) -> float | None:
        """Return the rate that the ramps suggest: the median over the ramps.

        Args:
            skip_begin: How many updates to leave out at the start of a ramp; at most a tenth of
                those it has.
            skip_end: How many to leave out at its end.

        Returns:
            The rate; None where the loss falls in none of the ramps, with a warning that says so.
        """
        found = [_suggested(ramp, skip_begin, skip_end) for ramp in self.ramps]
        known = sorted(lr * self.share for lr in found if lr is not None)
        if not known:
            warnings.warn(self._why_not(), stacklevel=2)
            return None
        low, high = statistics.median_low(known), statistics.median_high(known)
        return low if low == high else math.sqrt(low * high)

    def _why_not(self) -> str:
        points = max(len(ramp.lrs) for ramp in self.ramps)
        if points < LEAST:
            return (
                f"no rate can be suggested: training broke after {points} updates, at the first "
                f"rates from {self.lr_min:g} on; give a lower min_lr"
            )
        return (
            f"no rate can be suggested: the loss does not fall at any rate from {self.lr_min:g} to "
            f"{self.lr_max:g}; give more updates (num_training), a higher max_lr, or look at the "
            "data and the loss with etude.check"
        )

    def plot(self, suggest: bool = False, show: bool = False, ax: Any = None) -> Any:
        """Draw the smoothed losses of all ramps against the rate, with matplotlib.

        Args:
            suggest: Whether to mark the suggestion.
            show: Whether to open the figure.
            ax: Axes to draw into; None makes a figure.

        Returns:
            The figure.
        """
        pyplot = load("matplotlib.pyplot")
        axes = pyplot.subplots()[1] if ax is None else ax
        for ramp in self.ramps:
            axes.plot(self._own(ramp), ramp.smoothed)
        if self.mode == "exponential":
            axes.set_xscale("log")
        axes.set_xlabel("Learning rate")
        axes.set_ylabel("Loss")
        if suggest and (lr := self.suggestion()) is not None:
            axes.axvline(lr, color="red")
        if show:
            pyplot.show()
        return axes.figure


class Tuner:
    """Finds a learning rate as Lightning's Tuner does, and changes no Trainer.

        Tuner(trainer).lr_find(module, datamodule=datamodule).suggestion()

    Args:
        trainer: The Trainer whose accumulation, clipping and precision are used.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def lr_find(
        self,
        model: Any,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        dataloaders: Any = None,
        datamodule: Any = None,
        method: str = "fit",
        min_lr: float = 1e-8,
        max_lr: float = 1,
        num_training: int = 100,
        mode: str = "exponential",
        early_stop_threshold: float | None = 4.0,
        update_attr: bool = True,
        attr_name: str = "",
        *,
        repeats: int = REPEATS,
    ) -> RateFinder:
        """Raise the rate over short runs of a copy of a module, and read a rate off the losses.

        Groups of parameters keep the proportion of their rates, also to the rate that the module
        keeps: where a group trains at 10 times that, a ramp from 1e-8 to 1 raises the group's rate
        from 1e-7 to 10. A range test sees the first updates
        alone; `etude.interop.lightning.tune` compares rates by whole runs.

        Args:
            model: The module.
            train_dataloaders: The DataLoader of the training data, or a data module.
            val_dataloaders: Not used.
            dataloaders: Not used; it is for other methods than 'fit'.
            datamodule: The data module, in place of `train_dataloaders`.
            method: 'fit'.
            min_lr: The first rate.
            max_lr: The last rate.
            num_training: The number of updates of a ramp; epochs follow one another as needed.
            mode: 'exponential' or 'linear'.
            early_stop_threshold: A ramp stops where the smoothed loss exceeds its lowest value by
                more than this factor; None does not stop.
            update_attr: Whether to set the rate that is suggested in the module. If none is
                suggested, the module keeps its own.
            attr_name: Where the module keeps its rate, if not under 'lr' or 'learning_rate'.
            repeats: The number of ramps, each with another seed.

        Raises:
            BadValueError: If an argument is out of bounds, or the module cannot be read, as `task`
                raises it.
        """
        _check(method, min_lr, max_lr, mode, early_stop_threshold)
        num_training = check_whole("num_training", num_training, 2 * LEAST)
        repeats = check_whole("repeats", repeats, 1)
        name = attribute_of(model, attr_name) if update_attr else ""
        data = train_dataloaders if datamodule is None else datamodule
        reading = read(model, data, None, trainer=self.trainer, steps=num_training)
        task, recipe = reading.pair(None, "constant()")
        share = _share(model, name, reading.optimizer)
        plan = RampPlan(
            "Lightning",
            min_lr / share,
            max_lr / share,
            Smoothing(0.98, debias=1),
            math.inf if early_stop_threshold is None else early_stop_threshold,
            linear=mode == "linear",
        )
        seeds = range(recipe.seed, recipe.seed + repeats)
        ramps = [run_ramp(task, recipe.replace(seed=s), plan, num_training) for s in seeds]
        found = RateFinder(mode, min_lr, max_lr, num_training, tuple(ramps), share)
        if update_attr and (lr := found.suggestion()) is not None:
            set_rate(model, name, lr)
        return found


def _share(module: Any, name: str, optimizer: OwnOptimizer) -> float:
    """Return the rate that a module keeps over the highest one of its groups.

    1 where no group trains at the rate that it keeps.
    """
    kept = [rate_in(module, one) for one in ([name] if name else USUAL)]
    own = next((rate for rate in kept if rate is not None), optimizer.lr)
    shares = [values["lr_mult"] for _, values in optimizer.groups.groups]
    return next((share for share in shares if math.isclose(share * optimizer.lr, own)), 1.0)


def _check(
    method: str,
    low: float,
    high: float,
    mode: str,
    threshold: float | None,
) -> None:
    if method != "fit":
        raise BadValueError(f"method={method!r}: a rate is found for training; give method='fit'")
    if not 0 < low < high < math.inf:
        raise BadValueError(f"min_lr={low}, max_lr={high}: give 0 < min_lr < max_lr")
    if mode not in ("exponential", "linear"):
        raise BadValueError(f"mode={mode!r}: give 'exponential' or 'linear'")
    if threshold is not None and not threshold > 1:
        raise BadValueError(
            f"early_stop_threshold={threshold}: give a factor above 1, or None to go on to max_lr"
        )


def _suggested(ramp: Ramp, skip_begin: int, skip_end: int) -> float | None:
    """Return the rate in the valley of a ramp; None where the loss does not fall.

    The losses that are left out are left out of the smoothing too, which a spike at the start would
    otherwise carry on for a hundred updates.
    """
    count = len(ramp.lrs)
    first = min(skip_begin, count // 10)
    last = max(first, count - min(skip_end, count // 10))
    lrs, losses = ramp.lrs[first:last], ramp.plan.smoothing.of(ramp.losses[first:last])
    if len(lrs) < LEAST or not _falls(losses):
        return None
    return valley(lrs, losses)


def _falls(losses: Sequence[float]) -> bool:
    """Return whether the smoothed loss falls by more than it wavers before that."""
    lowest = min(range(len(losses)), key=losses.__getitem__)
    return lowest > 0 and losses[lowest] < losses[0]
