"""How another process builds a task: its reference, and which rows of the data it has."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from torch import Tensor

from etude.tasks.references.ref import TaskRef

Side: TypeAlias = Literal["train", "valid"]
"""Which data of a task."""


@dataclass(frozen=True, eq=False)
class DataRows:
    """Some rows of the data that a reference builds.

    Attributes:
        side: Of which data.
        index: The rows, in order; None for all.
    """

    side: Side
    index: Tensor | None = None

    def part(self, index: Tensor) -> DataRows:
        """Return some of these rows.

        >>> import torch
        >>> DataRows("train", torch.tensor([4, 6, 8])).part(torch.tensor([0, 2])).index.tolist()
        [4, 8]
        """
        return DataRows(self.side, index if self.index is None else self.index[index])


@dataclass(frozen=True, eq=False)
class TaskOrigin:
    """What builds a task in another process: its code by a reference, its data by their rows.

    Attributes:
        ref: The reference.
        train: The rows of the training data.
        valid: The rows of the validation data. In a fold they are rows of the training data, too.
    """

    ref: TaskRef
    train: DataRows = DataRows("train")
    valid: DataRows = DataRows("valid")

    def compared_on(self, index: Tensor) -> TaskOrigin:
        """Return the origin of the same task with some of its validation samples."""
        return replace(self, valid=self.valid.part(index))

    def fold(self, rest: Tensor, held: Tensor) -> TaskOrigin:
        """Return the origin of a fold, from the rows that it trains on and those held out."""
        return replace(self, train=self.train.part(rest), valid=self.train.part(held))
