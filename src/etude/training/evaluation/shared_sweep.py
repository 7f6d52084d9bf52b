"""The slices of an evaluation, divided over processes, with the bits of a single one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from etude.randomness import RandomState
from etude.tasks.collect import on_cpu
from etude.tasks.loss.weighted import WeightedLoss
from etude.tasks.sources.shards import Slice
from etude.tasks.sources.source import Data
from etude.torch_internals import version_of
from etude.training.state.snapshot import Buffers
from etude.training.world import SINGLE, World


@dataclass
class EvaluatedSlice:
    """What was computed on one slice of the validation data.

    Attributes:
        place: Its number in the sweep.
        loss: Its loss, without graph.
        count: Its number of samples.
        piece: What the metric needs of it, if that was not used yet.
    """

    place: int
    loss: WeightedLoss
    count: int
    piece: Any = None


class SharedSweep:
    """Divides the slices of a sweep over the processes of a world, and puts the results together.

    Each group of slices is computed by one process, as a single process would. A model that carries
    a state from slice to slice in a buffer must see all of them in order: then every process
    computes all, as it does if weights are sharded.

    Args:
        model: The network, in evaluation mode.
        world: The processes.

    Attributes:
        found: The results so far; whoever computes them adds them.
    """

    def __init__(self, model: nn.Module, world: World) -> None:
        self.model, self.world = model, world
        self.found: list[EvaluatedSlice] = []
        # Gathering sharded weights takes all processes, so that each must compute every slice.
        self._divided = world.size > 1 and not world.shards

    def groups(self, data: Data, rows: int, limit: int) -> Iterator[list[Slice]]:
        """Yield the groups of slices that this process computes.

        Args:
            data: The validation data.
            rows: The number of samples of a slice, if the data allow a choice.
            limit: The largest number of samples of a group of several slices.
        """
        if not self._divided:
            yield from SINGLE.sweep(data, rows, limit)
            return
        buffers, random, before = Buffers(self.model), RandomState.capture(), self._versions()
        own = self.world.sweep(data, rows, limit)
        first = next(own, None)
        if first is not None:
            yield first
        if not self.world.any(self._versions() != before)[0]:
            yield from own
            return
        self._divided = False
        self.found.clear()
        buffers.restore()
        random.restore()
        yield from SINGLE.sweep(data, rows, limit)

    def _versions(self) -> list[tuple[int, int]]:
        return [(id(buffer), version_of(buffer)) for buffer in self.model.buffers()]

    def assembled(self, keep: Callable[[Any], None] | None) -> list[EvaluatedSlice]:
        """Return the results of all slices, in their order.

        Args:
            keep: Called with what the metric needs of each slice, if it was not used yet.
        """
        if self.world.size == 1:
            return self.found
        found = self.found
        if self._divided:
            sent = [replace(one, loss=_on_cpu(one.loss), piece=on_cpu(one.piece)) for one in found]
            everywhere = self.world.gather(sent)
            found = sorted((s for own in everywhere for s in own), key=lambda one: one.place)
        for one in found if keep is not None else ():
            keep(one.piece)  # type: ignore[misc]
        return found


def _on_cpu(loss: WeightedLoss) -> WeightedLoss:
    def moved(value: Any) -> Any:
        return value.cpu() if isinstance(value, Tensor) else value

    terms = tuple((mean.cpu(), moved(weight)) for mean, weight in loss.terms)
    return WeightedLoss(loss.mean.cpu(), moved(loss.weight), terms)
