"""The data of a fit: each batch with its place, as the steps of a module get it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from torch.utils.data import DataLoader

from etude.errors import BadTypeError, TaskError, kind_of
from etude.interop.lightning.settings import limited
from etude.tasks.sources.loaders import LoaderData
from etude.tasks.sources.source import Batch


class PlacedBatch(NamedTuple):
    """A batch, and where it stands.

    Attributes:
        batch: The batch as the loader yields it.
        number: Its number in the epoch.
        epoch: The epoch.
        last: The number of the last batch of the epoch; None if unknown.
    """

    batch: Any
    number: int
    epoch: int
    last: int | None = None


class ModuleData(LoaderData):
    """Batches of a DataLoader, at most `limit` in an epoch.

    A loader that shuffles has an order that is drawn from the recipe's seed and the epoch. An
    update takes batches of one epoch, as in Lightning.

    Args:
        loader: The loader.
        limit: How many batches of an epoch are used: a number, or a share.
        name: What to call it in messages.
    """

    whole_epochs = True

    def __init__(self, loader: DataLoader[Any], limit: int | float, name: str) -> None:
        super().__init__(loader, name)
        self.limit = limit

    def steps_per_epoch(self, batch_size: int) -> int | None:
        """Return the number of batches that are used in an epoch."""
        return limited(super().steps_per_epoch(batch_size), self.limit)

    def _epoch(self, seed: int, epoch: int, skip: int = 0) -> Iterator[Batch]:
        most = self.steps_per_epoch(1)
        batches = super()._epoch(seed, epoch, skip)
        left = None if most is None else max(0, most - skip)
        try:
            for index, batch in enumerate(islice(batches, left), skip):
                yield PlacedBatch(batch, index, epoch, None if most is None else most - 1)
        finally:
            batches.close()  # type: ignore[attr-defined]


class Loaders(NamedTuple):
    """The two loaders of a fit.

    Attributes:
        train: That of the training data.
        valid: That of the validation data; None if there is none.
        datamodule: A prepared copy of the data module that they come from, if there is one.
    """

    train: Any
    valid: Any
    datamodule: Any


def loaders_of(module: Any, library: Any, data: Any, valid: Any, stand_in: Any) -> Loaders:
    """Return the loaders: those given, or of a copy of the data module, or of the module.

    Args:
        module: A copy of the module, attached to the stand-in.
        library: Lightning.
        data: The loader of the training data, or a data module, or None.
        valid: The loader of the validation data, or None.
        stand_in: What a data module sees as its Trainer.

    Raises:
        TaskError: If there are no training data.
        BadTypeError: If a loader is not a DataLoader.
    """
    source, owner = module, "the module"
    datamodule = None
    if isinstance(data, library.LightningDataModule):
        source = datamodule = _prepared(data, stand_in)
        owner, data = type(datamodule).__name__, None
    train = data
    if train is None and _overrides("train_dataloader", source, library):
        train = source.train_dataloader()
    if train is None:
        raise TaskError(
            f"{owner} has no train_dataloader: give a DataLoader or a LightningDataModule as the "
            "second argument"
        )
    if valid is None and _overrides("val_dataloader", source, library):
        valid = source.val_dataloader()
    return Loaders(
        _one(train, "the training data"),
        None if valid is None or valid == [] else _one(valid, "the validation data"),
        datamodule,
    )


def _prepared(datamodule: Any, stand_in: Any) -> Any:
    """Return a copy of a data module that was set up for a fit."""
    made = copy.copy(datamodule)
    vars(made)["trainer"] = stand_in
    made.prepare_data()
    made.setup("fit")
    return made


def _overrides(name: str, source: Any, library: Any) -> bool:
    base = (
        library.LightningDataModule
        if isinstance(source, library.LightningDataModule)
        else library.LightningModule
    )
    return getattr(type(source), name, None) is not getattr(base, name)


def _one(loader: Any, what: str) -> DataLoader[Any]:
    if isinstance(loader, (list, tuple)) and len(loader) == 1:
        loader = loader[0]
    if isinstance(loader, DataLoader):
        return loader
    if isinstance(loader, (list, tuple, dict)):
        raise BadTypeError(
            f"{what} are {len(loader)} loaders: rates are compared on one; give one DataLoader, "
            "for instance of a torch.utils.data.ConcatDataset"
        )
    raise BadTypeError(
        f"{what} come from {kind_of(loader)}: give a torch DataLoader, whose order can be "
        "repeated for each rate"
    )
