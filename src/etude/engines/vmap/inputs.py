"""Prepares the inputs of the next updates, block by block: samples, masks and scalars."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etude.engines.vmap.batched_update import ALWAYS, BatchedUpdate
from etude.engines.vmap.dropout import Mask
from etude.engines.vmap.values import Values
from etude.randomness import RandomState
from etude.tasks.sources.data import Batch, Cursor, TensorData
from etude.training.run import Run


@dataclass(frozen=True)
class InputPosition:
    """A position in a member's inputs: step, place in the data, random state, carried scalars."""

    step: int
    cursor: Cursor
    random: Tensor
    carried: dict[str, float]


class Inputs:
    """The samples, masks and scalars of one member's updates.

    Args:
        run: The member's run.
        state: Its `state_dict()`.
        carried: The scalars that the optimizer's formula carries from update to update.
        masks: The dropout masks of one forward pass.
    """

    def __init__(
        self, run: Run, state: dict[str, Any], carried: dict[str, float], masks: list[Mask]
    ) -> None:
        self.run, self.masks = run, masks
        self._rest = RandomState.from_tree(state["random"])
        self._device = next((p.device for p in run.model.parameters()), run.device)
        self._generator = torch.Generator(self._device)
        on_cpu = self._device.type == "cpu"
        own = self._rest.torch if on_cpu else self._rest.accelerators[self._device.index or 0]
        # The same class shuffles the samples' indices here as shuffles the data in the loop.
        samples = run.task.train.samples
        assert samples is not None
        self._numbers = TensorData((torch.arange(samples),))
        self.set_position(InputPosition(state["step"], Cursor(**state["place"]), own, carried))

    def set_position(self, place: InputPosition) -> None:
        """Continue from another position."""
        self.step = place.step
        self.cursor = replace(place.cursor)
        self.carried = dict(place.carried)
        self._generator.set_state(place.random)
        self._stream: Iterator[Batch] | None = None

    def position(self) -> InputPosition:
        """Return the current position."""
        return InputPosition(
            self.step, replace(self.cursor), self._generator.get_state(), dict(self.carried)
        )

    def random_tree(self) -> dict[str, Any]:
        """Return the run's random state in the form of a checkpoint."""
        own = self._generator.get_state()
        if self._device.type == "cpu":
            return replace(self._rest, torch=own).tree()
        others = list(self._rest.accelerators)
        others[self._device.index or 0] = own
        return replace(self._rest, accelerators=tuple(others)).tree()

    def copy_data_position(self, other: Inputs) -> None:
        """Continue at the same place in the data as other inputs of the same seed."""
        self.cursor = replace(other.cursor)
        self._stream = None

    def samples(self, count: int) -> Tensor:
        """Return the samples of the next updates: (count, accumulate, samples)."""
        each = self.run.recipe.accumulate
        if self._stream is None:
            recipe = self.run.recipe
            self._stream = self._numbers.stream(self.run.batch_size, recipe.seed, self.cursor)
        rows = [next(self._stream)[0] for _ in range(count * each)]
        return torch.stack(rows).reshape(count, each, -1)

    def draw(self, count: int) -> list[list[Tensor]]:
        """Return the masks of the next updates, for each update a list over its batches."""
        # From the run's own generator, batch by batch, in the order of the loop's forward passes.
        per = self.run.recipe.accumulate
        return [
            [m.draw(self._generator, self._device) for _ in range(per) for m in self.masks]
            for _ in range(count)
        ]

    def columns(self, program: BatchedUpdate, count: int) -> tuple[np.ndarray[Any, Any], Values]:
        """Return the scalars of the next updates, (count, columns), and their source values."""
        values = Values(self.run, self.step, count)
        recipe = self.run.recipe
        table = {"lr": values.lr, "weight_decay": values("weight_decay")}
        for name in ALWAYS[2:]:
            table[name] = np.full(count, getattr(recipe, name) or 0.0)
        table |= program.rule.columns(values, self.carried)
        return np.stack([table[name] for name in program.names], axis=1), values

    def mark_done(self, count: int) -> None:
        """Count the updates that were prepared last as done."""
        self.step += count
