"""What the tests of data share: numbered samples, so that a walk shows which it took."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    Dataset,
    IterableDataset,
)

COUNT = 23


class Plain(Dataset):
    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.tensor([float(index)]), index


class Stream(IterableDataset):
    """Passes on samples through a buffer that is shuffled with a global generator."""

    def __init__(self, sized: bool) -> None:
        self.sized = sized

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        buffer: list[int] = []
        for index in range(COUNT):
            buffer.append(index)
            if len(buffer) > 5:
                yield self.item(buffer.pop(random.randrange(len(buffer))))
        yield from map(self.item, buffer)

    def item(self, index: int) -> tuple[Tensor, int]:
        return torch.tensor([float(index)]), index

    def __len__(self) -> int:
        if not self.sized:
            raise TypeError("this stream does not know its length")
        return COUNT


def numbers(batch: Any) -> list[float]:
    """A batch as the plain numbers of its inputs and targets."""
    parts = batch.values() if isinstance(batch, dict) else batch
    return [v for part in parts for v in torch.as_tensor(part).flatten().tolist()]


class Nothing(IterableDataset):
    def __iter__(self) -> Iterator[int]:
        return iter(())
