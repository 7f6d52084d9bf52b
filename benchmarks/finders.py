"""Range tests by others: a hundred updates at a growing rate, and the rate that each suggests.

pytorch-lr-finder and Lightning's Tuner are the packages themselves with the values of their own
guides. fastai cannot be installed beside a torch without torchvision: its ramp and three of its
rules are written out here from its documentation
(https://docs.fast.ai/callback.schedule.html, `Learner.lr_find` and `SuggestionMethod`).
"""

from __future__ import annotations

import bisect
import contextlib
import io
import itertools
import logging
import math
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from etude.optimizers import build
from etude.recipe import Recipe
from etude.tasks.data import Cursor
from etude.tasks.task import Task
from etude.training.run import Run

COUNT = 100
"""Updates of a ramp, in all three."""


@dataclass(frozen=True)
class Suggestion:
    """What a range test says.

    Attributes:
        lr: The rate; None where it found none.
        updates: How many it cost.
    """

    lr: float | None
    updates: int


class Stream(IterableDataset[Any]):
    """A task's training batches, in the order in which a run meets them."""

    def __init__(self, task: Task, batch_size: int, seed: int) -> None:
        self.task, self.batch_size, self.seed = task, batch_size, seed

    def __iter__(self) -> Iterator[Any]:
        yield from itertools.islice(
            self.task.train.stream(self.batch_size, self.seed, Cursor()), 10 * COUNT
        )


@dataclass(frozen=True)
class Start:
    """What a ramp begins with: the recipe's model and optimizer, before the first update."""

    run: Run
    loader: DataLoader[Any]
    loss: Callable[[Any, Any], Tensor]

    @classmethod
    def of(cls, task: Task, recipe: Recipe) -> Start:
        """Return the start that a run of the recipe has."""
        run = Run(task, recipe)
        assert task.loss is not None
        loader = DataLoader(Stream(task, run.batch_size, recipe.seed), batch_size=None)
        return cls(run, loader, task.loss)

    def optimizer(self, lr: float) -> torch.optim.Optimizer:
        """Return the recipe's optimizer at a rate."""
        choice = self.run.recipe.optimizer
        return build(choice.name, self.run.model, lr=lr, **choice.hyperparameters)


def torch_lr_finder(start: Start) -> dict[str, Suggestion]:
    """pytorch-lr-finder as its README calls it: from 1e-7 to 100, steepest gradient."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot
    from torch_lr_finder import LRFinder

    finder = LRFinder(start.run.model, start.optimizer(1e-7), start.loss, device="cpu")
    _, axes = pyplot.subplots()
    lr: float | None
    with _silence():
        finder.range_test(start.loader, end_lr=100, num_iter=COUNT)
        try:
            _, lr = finder.plot(ax=axes)
        except (RuntimeError, ValueError):
            lr = None
    pyplot.close("all")
    return {"pytorch-lr-finder": Suggestion(_sound(lr), len(finder.history["lr"]))}


def lightning(start: Start) -> dict[str, Suggestion]:
    """Lightning's Tuner.lr_find with its defaults: from 1e-8 to 1, steepest gradient."""
    import lightning.pytorch as pl
    from lightning.pytorch.tuner.tuning import Tuner

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.lr = start.run.model, start.run.recipe.lr

        def training_step(self, batch: Any, _: int) -> Tensor:
            inputs, targets = batch
            return start.loss(self.model(inputs), targets)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return start.optimizer(self.lr)

    with tempfile.TemporaryDirectory() as folder, _silence():
        trainer = pl.Trainer(
            accelerator="cpu",
            max_steps=10 * COUNT,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        found = Tuner(trainer).lr_find(Module(), train_dataloaders=start.loader)
        assert found is not None
        return {"lightning Tuner": Suggestion(_sound(found.suggestion()), len(found.results["lr"]))}


def fastai_rules(start: Start) -> dict[str, Suggestion]:
    """One ramp as fastai runs it, read by three of its rules."""
    rates, losses = fastai_ramp(start)
    count = len(rates)
    rates, losses = rates[COUNT // 10 : -5], losses[COUNT // 10 : -5]
    if len(rates) < 2:
        return {f"fastai {name}": Suggestion(None, count) for name in RULES}
    return {
        f"fastai {name}": Suggestion(_sound(rule(rates, losses)), count)
        for name, rule in RULES.items()
    }


def fastai_ramp(start: Start) -> tuple[list[float], list[float]]:
    """Return rates and smoothed losses from 1e-7 to 10, until the loss is 4 times its best.

    The smoothed loss is the debiased exponential mean with β = 0.98.
    """
    optimizer, model = start.optimizer(1e-7), start.run.model.train()
    rates: list[float] = []
    losses: list[float] = []
    total = 0.0
    for step, (inputs, targets) in enumerate(itertools.islice(start.loader, COUNT), 1):
        rate = 1e-7 * 1e8 ** ((step - 1) / COUNT)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        loss = start.loss(model(inputs), targets)
        torch.autograd.backward(loss)
        optimizer.step()
        total = 0.98 * total + 0.02 * loss.item()
        if not math.isfinite(total):
            break
        rates.append(rate)
        losses.append(total / (1 - 0.98**step))
        if losses[-1] > 4 * min(losses):
            break
    return rates, losses


def valley(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Return the rate half of a third beyond a third of the longest valley.

    A valley is a falling subsequence of the losses; it is taken to lie where as many
    neighbours end at its last point.

    Args:
        rates: Ascending.
        losses: Smoothed.
    """
    tails: list[float] = []
    longest = end = 0
    for index, loss in enumerate(losses):
        place = bisect.bisect_left(tails, -loss)
        tails[place : place + 1] = [-loss]
        if place + 1 > longest:
            longest, end = place + 1, index
    third = longest / 3
    return rates[max(0, end - longest + int(third) + int(third / 2))]


def steep(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Return the rate where the loss falls most steeply along log rate."""
    slopes = [
        (after - before) / math.log(high / low)
        for (low, before), (high, after) in itertools.pairwise(zip(rates, losses, strict=True))
    ]
    return rates[min(range(len(slopes)), key=slopes.__getitem__)]


def minimum(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Return a tenth of the rate where the loss is lowest."""
    return rates[min(range(len(losses)), key=losses.__getitem__)] / 10


RULES = {"valley": valley, "steep": steep, "minimum/10": minimum}
RAMPS = {"pytorch-lr-finder": torch_lr_finder, "lightning": lightning, "fastai": fastai_rules}
"""Each runs one ramp; its suggestions by name."""


def _sound(lr: float | None) -> float | None:
    return float(lr) if lr is not None and math.isfinite(lr) and lr > 0 else None


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
