"""What a constant output scores: what a network must beat to have learned from its inputs."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from etude.errors import EtudeError
from etude.randomness import random_state_kept
from etude.tasks.data import Cursor, rows
from etude.tasks.task import Task
from etude.training.check import leaves
from etude.training.evaluate import evaluate, move
from etude.training.record import Evaluation
from etude.training.run import Run
from etude.tuning.goal import Goal

SAMPLES, NUMBERS = 1024, 500_000
"""Training samples, and numbers in their outputs, that the constant is fitted on at most."""

LARGEST = 100_000
"""Numbers in one sample's output beyond which no constant is fitted."""

ITERATIONS = 25
"""Of L-BFGS."""


class Constant(nn.Module):
    """A network whose output is the same whatever its inputs.

    Args:
        value: The output for one sample.
    """

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.kind = value.dtype
        self.value = nn.Parameter(value.detach().float())

    def forward(self, *inputs: Any) -> Tensor:
        """Return the value, once for every sample."""
        return self.value.to(self.kind).expand(rows(inputs), *self.value.shape)


def constant_score(run: Run) -> Evaluation | None:
    """Return what the best constant output scores on the validation data; None if there is none.

        c* = argmin over c of the mean loss of (c, target) on the training data

    by L-BFGS on up to 1024 training samples. No gradient of the network is computed.

    Args:
        run: Whose task it is. Its model tells the shape of an output, and is left as it was.
    """
    task = run.task
    if task.step is not None or task.alternates:
        return None
    try:
        with random_state_kept(0), task.train.untouched():
            stream = run.task.train.stream(run.batch_size, run.recipe.seed, Cursor())
            first = move(next(stream), run.device)
            start = _start(run, first)
            if start is None or _same(first):
                return None
            batches, count = [first], rows(first)
            while count < SAMPLES and count * start.numel() < NUMBERS:
                batches.append(move(next(stream), run.device))
                count += rows(batches[-1])
            model = Constant(start).to(run.device)
            _fit(task, model, batches)
            size = max(128, 2 * run.batch_size)
            found = evaluate(task, model, batch_size=size, device=run.device)
    except (EtudeError, RuntimeError, ValueError, TypeError, IndexError):
        return None  # the loss or metric asks for more than an output: nothing can be said
    return found if math.isfinite(found.loss) else None


def _same(batch: Any) -> bool:
    """Say whether the inputs of a batch are all the same: a constant is then all there is."""
    inputs = list(leaves(batch[:-1])) if isinstance(batch, (tuple, list)) else list(leaves(batch))
    return all(bool((x == x[:1]).all()) for x in inputs if x.ndim)


def _start(run: Run, batch: Any) -> Tensor | None:
    """Return where to begin: the mean target where it has an output's shape, else mean output."""
    model = copy.deepcopy(run.model).eval()
    with torch.no_grad(), run.autocast():
        _, output, target = run.task.forward(model, batch)
    if not isinstance(output, Tensor) or not output.is_floating_point() or output.ndim == 0:
        return None
    if len(output) != rows(batch) or output[0].numel() > LARGEST:
        return None
    if isinstance(target, Tensor) and target.shape == output.shape and target.is_floating_point():
        return target.float().mean(0).to(output.dtype)
    return output.float().mean(0).to(output.dtype)


def _fit(task: Task, model: Constant, batches: list[Any]) -> None:
    """Lower the mean loss; where the loss refuses a value, keep the best that it took."""
    sizes = [rows(batch) for batch in batches]
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=ITERATIONS, line_search_fn="strong_wolfe"
    )
    best, kept = math.inf, model.value.detach().clone()

    def closure() -> Tensor:
        nonlocal best, kept
        optimizer.zero_grad()
        losses = [task.forward(model, b)[0] * n for b, n in zip(batches, sizes, strict=True)]
        loss = torch.stack(losses).sum() / sum(sizes)
        loss.backward()  # type: ignore[no-untyped-call]
        if float(loss.detach()) < best:
            best, kept = float(loss.detach()), model.value.detach().clone()
        return loss

    try:
        with torch.enable_grad():
            optimizer.step(closure)  # type: ignore[no-untyped-call]
    except (EtudeError, RuntimeError, ValueError):
        pass
    with torch.no_grad():
        model.value.copy_(kept)


SURE = 3.0
"""Standard errors by which a score must be better than a constant's to tell anything."""

LEAST = 0.005
"""Share of the constant's score by which it must at least be better."""


def better(one: Evaluation, floor: Evaluation, goal: Goal, errors: float = SURE) -> bool:
    """Say whether a score is better than that of a constant by more than noise.

        mean(d) < -max(errors * s(d) / sqrt(n), 0.005 |floor|)

    with d the differences of the n slices, one minus floor, s their standard deviation.

    Args:
        one: Of the network.
        floor: Of the constant, on the same slices.
        goal: What is compared.
        errors: Standard errors.

    >>> floor = Evaluation(0, 1.0, None, (0.9, 1.1))
    >>> better(Evaluation(9, 0.5, None, (0.4, 0.6)), floor, Goal())
    True
    >>> better(Evaluation(9, 0.9, None, (0.4, 1.4)), floor, Goal())
    False
    """
    gain = goal.score(floor) - goal.score(one)
    if not math.isfinite(gain):
        return math.isfinite(goal.score(one))
    return gain > max(errors * noise(one, floor, goal), LEAST * abs(goal.score(floor)))


def noise(one: Evaluation, other: Evaluation, goal: Goal) -> float:
    """Return the standard error of the difference of two scores, slice by slice; 0 of one slice."""
    pairs = zip(goal.parts(one), goal.parts(other), strict=False)
    differences = [a - b for a, b in pairs if math.isfinite(a) and math.isfinite(b)]
    if len(differences) < 2:
        return 0.0
    centre = math.fsum(differences) / len(differences)
    spread = math.fsum((d - centre) ** 2 for d in differences) / (len(differences) - 1)
    return math.sqrt(spread / len(differences))
