"""Small LightningModules, their data, and fits of them."""

from __future__ import annotations

import copy
import logging
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import etude
from tests.helpers import data
from tests.interop.trainers.parity import Parity

lightning = pytest.importorskip("lightning.pytorch")


class Net(lightning.LightningModule):
    """A classifier that logs what such modules log."""

    def __init__(self, lr: float = 0.05, **options: Any) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 2))
        self.options = options

    def loss(self, batch: Any) -> Any:
        x, y = batch
        return cross_entropy(self.net(x), y)

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", self.loss(batch))
        self.log("val_acc", (self.net(x).argmax(1) == y).float().mean())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)


class Records(lightning.Callback):
    """Keeps the loss of each batch of a fit."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))


def loader(count: int = 64, size: int = 8, **options: Any) -> DataLoader:
    return DataLoader(TensorDataset(*data(count)), batch_size=size, **options)


def made(module: type = Net, seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    return module(**options)


def trainer_of(*callbacks: Any, **options: Any) -> Any:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return lightning.Trainer(
            **{"max_steps": 50, "max_epochs": -1, **options},
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=list(callbacks),
        )


def fitted(module: Any, *loaders: Any, accumulate: int = 1, **options: Any) -> list[float]:
    """Fit a module; return the losses of its updates: the means over their batches."""
    records = Records()
    trainer = trainer_of(records, accumulate_grad_batches=accumulate, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, *loaders)
    # Lightning divides the loss of a batch by the number of batches of an update.
    per_epoch = int(trainer.num_training_batches)
    starts = [i for i in range(len(records.losses)) if i % per_epoch % accumulate == 0]
    ends = [*starts[1:], len(records.losses)]
    return [sum(records.losses[a:b]) for a, b in zip(starts, ends, strict=True)]


def beside_fit(module: Any, accumulate: int = 1, **options: Any) -> Parity:
    """Train the task that was read, then the module, which must be as it was before."""
    from etude.interop.lightning import task

    loaders = loader(), loader(24)
    before = copy.deepcopy(module.state_dict())
    trainer = trainer_of(accumulate_grad_batches=accumulate, **options)
    found, recipe = task(module, *loaders, trainer=trainer)
    record = etude.train(found, recipe.replace(evaluations=1))
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    theirs = fitted(module, *loaders, accumulate=accumulate, **options)
    return Parity.of(record, theirs)
