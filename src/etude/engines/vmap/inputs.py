"""What the members' next updates need: samples, masks and numbers, prepared block by block."""

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
from etude.tasks.data import Batch, Cursor, TensorData
from etude.training.run import Run


@dataclass(frozen=True)
class InputPlace:
    """Where a member's inputs stand: step, data, randomness, and what its numbers carry along."""

    step: int
    cursor: Cursor
    random: Tensor
    carried: dict[str, float]


class Inputs:
    """The samples, masks and numbers of one member.

    Args:
        run: The member.
        state: Its `state_dict()`.
        carried: What its optimizer's numbers carry along.
        masks: What one forward pass draws.
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
        # The order of the data is drawn by the data's own rule, here over the samples' numbers.
        samples = run.task.train.samples
        assert samples is not None
        self._numbers = TensorData((torch.arange(samples),))
        self.go_to(InputPlace(state["step"], Cursor(**state["place"]), own, carried))

    def go_to(self, place: InputPlace) -> None:
        """Stand somewhere else."""
        self.step = place.step
        self.cursor = replace(place.cursor)
        self.carried = dict(place.carried)
        self._generator.set_state(place.random)
        self._stream: Iterator[Batch] | None = None

    def place(self) -> InputPlace:
        """Return where it stands."""
        return InputPlace(
            self.step, replace(self.cursor), self._generator.get_state(), dict(self.carried)
        )

    def random_tree(self) -> dict[str, Any]:
        """Return the run's random state as a checkpoint holds it."""
        own = self._generator.get_state()
        if self._device.type == "cpu":
            return replace(self._rest, torch=own).tree()
        others = list(self._rest.accelerators)
        others[self._device.index or 0] = own
        return replace(self._rest, accelerators=tuple(others)).tree()

    def follow(self, other: Inputs) -> None:
        """Stand in the data where other inputs of the same seed stands."""
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
        """Return the masks of the next updates, each a list over its batches' masks."""
        # From the run's own generator, batch by batch, as the loop's forward passes would.
        per = self.run.recipe.accumulate
        return [
            [m.draw(self._generator, self._device) for _ in range(per) for m in self.masks]
            for _ in range(count)
        ]

    def columns(self, program: BatchedUpdate, count: int) -> tuple[np.ndarray[Any, Any], Values]:
        """Return the numbers of the next updates, (count, columns), and the values behind them."""
        values = Values(self.run, self.step, count)
        recipe = self.run.recipe
        table = {"lr": values.lr, "weight_decay": values("weight_decay")}
        for name in ALWAYS[2:]:
            table[name] = np.full(count, getattr(recipe, name) or 0.0)
        table |= program.rule.columns(values, self.carried)
        return np.stack([table[name] for name in program.names], axis=1), values

    def moved(self, count: int) -> None:
        """Note that the updates prepared last are done."""
        self.step += count
