"""What a network costs and how good it is: bytes, latency, loss and metric, zeros by layer."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from etude.record import Evaluation
from etude.tasks.sources.data import Batch
from etude.tasks.task import Task
from etude.training.evaluation.evaluate import evaluate, move
from etude.training.machine.threads import counted_work, suitable_threads, use_threads
from etude.training.state.snapshot import buffers_kept, modes_kept

CPU = torch.device("cpu")

PASSES = 31
"""Forward passes of each network that are timed."""

WARM = 3
"""Forward passes before those."""

LONGEST = 10.0
"""Seconds after which no further pass is timed, once there are `FEWEST`."""

FEWEST = 5


@dataclass(frozen=True)
class Latency:
    """How long a forward pass takes, before and after.

    Attributes:
        before: Median seconds of the network before.
        after: Of the compressed one.
        ratio: The median of the ratios after / before of neighbouring passes: whatever else the
            machine does meets both.
        passes: How many passes of each were timed.
        samples: Samples in the batch.
        threads: Of torch.
        device: Where.
    """

    before: float
    after: float
    ratio: float
    passes: int
    samples: int
    threads: int
    device: str = "cpu"

    def plain(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {**vars(self)}


def caller(task: Task) -> Callable[[nn.Module, Batch], Any]:
    """Return what calls a model with a batch: the model itself, or the task's step."""
    if task.step is not None:
        return task.forward
    return lambda model, batch: model(*list(batch)[:-1])


def model_inputs(task: Task, batch: Batch) -> list[Any] | None:
    """Return what the model is called with on a batch; None where the task's step calls it."""
    return None if task.step is not None else list(batch)[:-1]


def first_batches(task: Task, samples: int, count: int, *, train: bool) -> list[Batch]:
    """Return the first batches of the training or validation data, in their own order."""
    data = task.train if train else task.valid
    found: list[Batch] = []
    with data.untouched():
        for batch, _ in data.sweep(samples):
            found.append(move(batch, CPU))
            if len(found) == count:
                break
    return found


@contextmanager
def measured(*models: nn.Module) -> Iterator[None]:
    """Set models to evaluation for a block, without gradients, and leave them as they were."""
    if not models:
        with torch.no_grad():
            yield
        return
    first, *rest = models
    with modes_kept(first), buffers_kept(first):
        first.eval()
        with measured(*rest):
            yield


def latency(task: Task, before: nn.Module, after: nn.Module, batch: Batch, samples: int) -> Latency:
    """Time both networks in turns on the CPU.

    Args:
        task: The task, whose step may call the model.
        before: The network before.
        after: The compressed one.
        batch: What both are called with.
        samples: How many samples that is.
    """
    call = caller(task)
    with measured(before, after):
        with counted_work(before) as work:
            call(before, batch)
        threads = suitable_threads(work)
        with use_threads(threads):
            for _ in range(WARM):
                call(before, batch)
                call(after, batch)
            pairs: list[tuple[float, float]] = []
            begun = time.perf_counter()
            while len(pairs) < PASSES:
                pairs.append((_timed(call, before, batch), _timed(call, after, batch)))
                if len(pairs) >= FEWEST and time.perf_counter() - begun > LONGEST:
                    break
    firsts, seconds = zip(*pairs, strict=True)
    return Latency(
        statistics.median(firsts),
        statistics.median(seconds),
        statistics.median(b / a for a, b in pairs),
        len(pairs),
        samples,
        threads,
    )


def _timed(call: Callable[[nn.Module, Batch], Any], model: nn.Module, batch: Batch) -> float:
    started = time.perf_counter()
    call(model, batch)
    return max(time.perf_counter() - started, 1e-9)


def judge(task: Task, model: nn.Module, batch_size: int) -> Evaluation:
    """Return loss and metric of a network on the validation data, on the CPU."""
    return evaluate(task.on(CPU), model, batch_size=max(128, 2 * batch_size), device=CPU)


def zeros(tensor: Tensor) -> int:
    """Return how many numbers of a tensor are exactly zero.

    >>> zeros(torch.tensor([0.0, -0.0, 1e-30]))
    2
    """
    return int((tensor == 0).sum())
