"""Evaluations of several members at once: outputs and losses of all, the metric of each."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from etude.engines.vmap.batched_update import BatchedUpdate
from etude.engines.vmap.stack import Stack
from etude.tasks.data import Batch
from etude.tasks.task import Task
from etude.tasks.weighted import WeightedLoss
from etude.torch_internals import flattened, unflattened
from etude.training.run import Run
from etude.training.snapshot import modes_kept

LARGEST = 2**28
"""Bytes of all members' answers beyond which each is evaluated alone."""

FEWEST, LARGE = 8, 1e5
"""Members from which it pays on a CPU, and weights from which it does not.

Measured on one core: 16 members of 3e3 to 3e4 weights, dense or convolutional, take 0.6 to 0.8 of
the time that each alone takes; 4 of them, or 16 of 1e5 weights, take longer.
"""

Answer = tuple[WeightedLoss, Any, Any]
"""The loss, the output and the target of one slice."""


class UnstackedError(Exception):
    """The members' forward passes cannot be made together."""


class BatchedEvaluation:
    """The forward passes of several members on the slices of the validation data.

    The first member that is asked for its answer to a slice computes it for all; the others are
    given what is theirs, slice by slice.

    Args:
        stack: Whose members they are.
        places: Theirs.
    """

    def __init__(self, stack: Stack, places: Sequence[int]) -> None:
        self.net, self.count = stack.program.loss.net, len(places)
        self._task = stack.members[places[0]].run.task  # its loss is not smoothed
        layout = stack.program.layout
        index = torch.tensor(places, device=stack.state.rows.device)
        fixed = (tensor[index] for tensor in stack.state.fixed)
        self._held = {
            **layout.views(stack.state.rows[index]),
            **dict(zip(layout.fixed, fixed, strict=True)),
        }
        self._answers: list[list[Answer]] = []

    def task(self, index: int) -> Task:
        """Return the task, its forward pass being what was computed for one of the members."""
        own = copy.copy(self._task)
        slices = iter(range(2**62))

        def weighed(_: nn.Module, batch: Batch) -> Answer:
            place = next(slices)
            if place == len(self._answers):
                self._answers.append(self._forward(batch))
            return self._answers[place][index]

        object.__setattr__(own, "weighed", weighed)  # a frozen task, and a copy of our own
        return own

    def _forward(self, batch: Batch) -> list[Answer]:
        net, task = self.net, self._task
        *inputs, target = batch

        # vmap returns tensors alone; a weight that is a number is the same for all members.
        numbers: list[float | None] = []

        def member(held: dict[str, Tensor]) -> tuple[Any, ...]:
            output = functional_call(net, held, tuple(inputs))
            loss = task.compare(output, target)
            if isinstance(loss.weight, Tensor):
                return output, loss.mean, loss.weight
            numbers.append(loss.weight)
            return output, loss.mean

        with modes_kept(net):
            net.eval()
            try:
                outputs, losses, *weights = vmap(member, randomness="error")(self._held)
            except Exception as error:
                raise UnstackedError from error
        leaves, shape = flattened(outputs)
        if losses.ndim != 1 or not all(isinstance(leaf, Tensor) for leaf in leaves):
            raise UnstackedError
        if (len(self._answers) + 1) * sum(leaf.nbytes for leaf in leaves) > LARGEST:
            raise UnstackedError
        return [
            (
                WeightedLoss(losses[i], weights[0][i] if weights else numbers[0]),
                unflattened([leaf[i] for leaf in leaves], shape),
                target,
            )
            for i in range(self.count)
        ]


def fits(program: BatchedUpdate, run: Run, members: int) -> bool:
    """Say whether so many members are worth evaluating together."""
    if run.task.step is not None or not program.stacks_evaluations:
        return False
    if run.device.type != "cpu":
        return members > 1
    recurrent = any(isinstance(module, nn.RNNBase) for module in program.loss.net.modules())
    return members >= FEWEST and program.layout.width < LARGE and not recurrent
