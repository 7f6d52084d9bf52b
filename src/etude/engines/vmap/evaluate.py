"""Evaluates several members at once: one forward pass for all, then the metric of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from etude.engines.vmap.batched_update import BatchedUpdate
from etude.engines.vmap.stack import Stack
from etude.tasks.loss.weighted import WeightedLoss
from etude.tasks.sources.data import Batch
from etude.torch_internals import flattened, unflattened
from etude.training.evaluation.joined_slices import Answer, Answers
from etude.training.run import Run
from etude.training.state.snapshot import modes_kept

LARGEST = 2**28
"""The size in bytes of all members' outputs above which each member is evaluated alone."""

FEWEST, LARGE = 8, 1e5
"""The number of members from which it is faster on a CPU, and the number of weights from which it
is slower.

Measured on one core: evaluating 16 members of 3e3 to 3e4 weights together, dense or convolutional,
takes 0.6 to 0.8 of the time of evaluating them one by one; with 4 members, or with 16 of 1e5
weights, it takes longer.
"""


class UnstackedError(Exception):
    """The forward passes of the members cannot be computed together."""


class BatchedEvaluation:
    """Computes the forward passes of several members on the slices of the validation data.

    The first member that needs a slice computes it for all members; the others use the stored
    results.

    Args:
        stack: The stack with the members.
        places: The indices of the members in the stack.
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

    def of(self, index: int) -> Answers:
        """Return what answers for one of the members, from the results computed for all."""
        slices = iter(range(2**62))

        def answers(batches: Sequence[Batch]) -> list[Answer]:
            found = []
            for batch in batches:
                place = next(slices)
                if place == len(self._answers):
                    self._answers.append(self._forward(batch))
                found.append(self._answers[place][index])
            return found

        return answers

    def _forward(self, batch: Batch) -> list[Answer]:
        net, task = self.net, self._task
        *inputs, target = batch

        # vmap returns only tensors; a weight that is a number is the same for all members.
        numbers: list[float | None] = []

        def member(held: dict[str, Tensor]) -> tuple[Any, ...]:
            output = functional_call(net, held, tuple(inputs))
            loss = task.compare(output, target)
            if isinstance(loss.weight, Tensor):
                return output, loss.mean, loss.weight
            if loss.weight is None and loss.terms:
                raise UnstackedError
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


def is_faster_together(program: BatchedUpdate, run: Run, members: int) -> bool:
    """Return whether evaluating this many members together is expected to be faster."""
    if run.task.step is not None or not program.stacks_evaluations:
        return False
    if run.device.type != "cpu":
        return members > 1
    recurrent = any(isinstance(module, nn.RNNBase) for module in program.loss.net.modules())
    return members >= FEWEST and program.layout.width < LARGE and not recurrent
