"""A DataLoader over some of the samples of another one."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
)

from etude.errors import kind_of


def why_whole(loader: DataLoader[Any]) -> str:
    """Return why no part of a loader's samples can be taken; empty if it can.

    A loader without a sampler of the user's own draws from all samples, in order or at random: one
    over a part of them differs in nothing else.
    """
    if isinstance(loader.dataset, IterableDataset):
        return "its dataset is a stream"
    if type(loader) is not DataLoader:
        return f"it is {kind_of(loader)} with an order of its own"
    sampler, batches = loader.sampler, loader.batch_sampler
    if type(batches) is not BatchSampler:
        return "it has a batch_sampler of its own" if batches else "it makes no batches"
    if type(sampler) is SequentialSampler:
        return ""
    if type(sampler) is RandomSampler and not sampler.replacement:
        return "" if len(sampler) == len(loader.dataset) else "its sampler leaves samples out"  # type: ignore[arg-type]
    return f"it has {kind_of(sampler)} of its own"


def part_of(loader: DataLoader[Any], index: Tensor, *, held_out: bool = False) -> DataLoader[Any]:
    """Return a loader over the samples at `index`, with the settings of the given one.

    Args:
        loader: A loader for which `why_whole` is empty.
        index: Rows of its dataset.
        held_out: Whether every sample is needed, in order, as validation data.
    """
    processes: dict[str, Any] = {}
    if loader.num_workers > 0:
        processes = {
            "multiprocessing_context": loader.multiprocessing_context,
            "prefetch_factor": loader.prefetch_factor,
        }
    return DataLoader(
        Subset(loader.dataset, index.tolist()),
        batch_size=loader.batch_size,
        shuffle=not held_out and isinstance(loader.sampler, RandomSampler),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        drop_last=loader.drop_last and not held_out,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        generator=None if held_out else loader.generator,
        **processes,
    )
