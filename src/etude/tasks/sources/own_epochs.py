"""The epochs that an iterable data set counts itself, which give it its order."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import getattr_static
from typing import Any

from torch.utils.data import IterableDataset


class OwnEpochs:
    """Gives a data set that counts its own epochs the same count whenever an epoch is read.

    Such a data set has no `set_epoch`, and adds to a whole number each time it is iterated. Trials
    that are compared, and a trial that goes on after a pause, read an epoch again: it then gets the
    count that it had the first time.

    Args:
        dataset: The data set. Only an IterableDataset without `set_epoch` is looked at, and of it
            whole numbers whose name contains 'epoch'.

    >>> class Counting(IterableDataset):
    ...     epoch = 0
    ...     def __iter__(self):
    ...         self.epoch += 1
    ...         yield self.epoch
    >>> data = Counting()
    >>> own = OwnEpochs(data)
    >>> for epoch in (0, 1, 0):
    ...     own.begin(epoch)
    ...     print(list(data))
    [1]
    [2]
    [1]
    """

    def __init__(self, dataset: Any) -> None:
        counts = isinstance(dataset, IterableDataset) and not hasattr(dataset, "set_epoch")
        self._dataset = dataset if counts else None
        self._first: dict[int, dict[str, int]] = {}
        self._unknown: dict[str, int] | None = None

    def begin(self, epoch: int) -> None:
        """Give the data set the count that it had when an epoch was begun first."""
        if self._dataset is None:
            return
        if epoch not in self._first:
            self._first[epoch] = self._counts()
            if epoch > 0 and epoch - 1 not in self._first:
                self._unknown = self._first[epoch]
        self._set(self._first[epoch])

    def end(self) -> None:
        """Warn of an epoch whose count is not known, since those before it were read elsewhere."""
        if self._unknown is None:
            return
        before, self._unknown = self._unknown, None
        changed = [name for name, value in self._counts().items() if before.get(name, 0) != value]
        if changed:
            warnings.warn(
                f"the training data count their epochs themselves "
                f"({type(self._dataset).__name__}.{changed[0]}), and no checkpoint holds the "
                "count: the run differs from one that was never interrupted. Give the data set "
                "set_epoch(self, epoch), which is called before each epoch",
                stacklevel=2,
            )

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Restore the count after a block."""
        before = self._counts()
        try:
            yield
        finally:
            self._set(before)

    def _counts(self) -> dict[str, int]:
        names = [name for name in dir(self._dataset) if "epoch" in name.lower()]
        found = {name: getattr_static(self._dataset, name) for name in names}  # no properties
        return {name: value for name, value in found.items() if type(value) is int}

    def _set(self, counts: dict[str, int]) -> None:
        for name, value in counts.items():
            if getattr(self._dataset, name) != value:
                setattr(self._dataset, name, value)
