"""Range tests by others: a hundred updates at a growing rate, and the rate that each suggests.

pytorch-lr-finder and Lightning's Tuner are the packages themselves with the values of their own
guides. fastai cannot be installed beside a torch without torchvision: its ramp and rules are those
of `etude.methods`, written from its documentation.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import math
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from etude.methods.ramp import FASTAI, run_ramp
from etude.methods.ramp_rules import RULES
from etude.optimizers import build
from etude.recipe import Recipe
from etude.tasks.sources.data import Cursor
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
    """One ramp as fastai runs it, read by its rules."""
    ramp = run_ramp(start.run.task, start.run.recipe, FASTAI, COUNT)
    return {
        f"fastai {rule.name}": Suggestion(_sound(rule.suggest(ramp, COUNT)), len(ramp.lrs))
        for rule in RULES.values()
        if rule.plan is FASTAI
    }


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
