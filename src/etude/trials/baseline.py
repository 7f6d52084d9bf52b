"""What a constant output scores: what a network must beat to have learned from its inputs."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from etude.errors import EtudeError
from etude.randomness import random_state_kept
from etude.record import Evaluation
from etude.tasks.data import Cursor, rows
from etude.tasks.task import Task
from etude.training.check import leaves
from etude.training.evaluate import evaluate, move
from etude.training.run import Run
from etude.trials.score import Goal

SAMPLES, NUMBERS = 1024, 500_000
"""Training samples, and numbers in their outputs, that the constant is fitted on at most."""

LARGEST = 100_000
"""Numbers in one sample's output beyond which no constant is fitted."""

ITERATIONS = 25
"""Of L-BFGS."""


class ConstantOutput(nn.Module):
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

    Raises:
        TaskError: What the user's loss or metric raises, where it is not the constant that it
            refuses; see `_pass_on`.
    """
    task = run.task
    if task.step is not None or task.alternates:
        return None
    with random_state_kept(0), task.train.untouched():
        stream = run.task.train.stream(run.batch_size, run.recipe.seed, Cursor())
        first = move(next(stream), run.device)
        network = copy.deepcopy(run.model).eval()
        start = _start(run, network, first)
        if start is None or _same(first):
            return None
        batches, count = [first], rows(first)
        while count < SAMPLES and count * start.numel() < NUMBERS:
            batches.append(move(next(stream), run.device))
            count += rows(batches[-1])
        model = ConstantOutput(_mean_target(start, batches)).to(run.device)
        if not _fit(task, model, network, batches):
            return None
        size = max(128, 2 * run.batch_size)

        def scored(one: nn.Module) -> Evaluation:
            return evaluate(task, one, batch_size=size, device=run.device)

        try:
            found = scored(model)
        except EtudeError as error:
            _pass_on(error, scored, model, network)
            return None
    return found if math.isfinite(found.loss) else None


def _pass_on(
    error: EtudeError, call: Callable[[nn.Module], object], constant: nn.Module, network: nn.Module
) -> None:
    """Raise an error of the user's code again, unless it is the constant that it refuses.

    It is, if what failed fails again for the constant and does not for the network: a loss may
    ask for more than an output, or refuse its value. An error that comes and goes, or that the
    network's own output meets, too, is none of the constant's.
    """
    try:
        call(constant)
    except EtudeError:
        try:
            with torch.no_grad():
                call(network)
        except EtudeError:
            raise error from None
        return
    raise error


def _same(batch: Any) -> bool:
    """Say whether the inputs of a batch are all the same: a constant is then all there is."""
    inputs = list(leaves(batch[:-1])) if isinstance(batch, (tuple, list)) else list(leaves(batch))
    return all(bool((x == x[:1]).all()) for x in inputs if x.ndim)


def _start(run: Run, network: nn.Module, batch: Any) -> Tensor | None:
    """Return where to begin: the mean target where it has an output's shape, else mean output."""
    with torch.no_grad(), run.autocast():
        _, output, target = run.task.forward(network, batch)
    if not isinstance(output, Tensor) or not output.is_floating_point() or output.ndim == 0:
        return None
    if len(output) != rows(batch) or output[0].numel() > LARGEST:
        return None
    if isinstance(target, Tensor) and target.shape == output.shape and target.is_floating_point():
        return target.float().mean(0).to(output.dtype)
    return output.float().mean(0).to(output.dtype)


def _mean_target(start: Tensor, batches: list[Any]) -> Tensor:
    """Return the mean target of all batches where it has an output's shape, else the start."""
    targets = [b[-1] for b in batches if isinstance(b, (tuple, list))]
    fit = [t for t in targets if isinstance(t, Tensor) and t.shape[1:] == start.shape]
    if len(fit) < len(batches) or not all(t.ndim and t.is_floating_point() for t in fit):
        return start
    return torch.cat(fit).float().mean(0).to(start.dtype)


def _fit(task: Task, model: ConstantOutput, network: nn.Module, batches: list[Any]) -> bool:
    """Lower the mean loss; where the loss refuses a value, keep the best that it took.

    Returns:
        Whether the loss took any.
    """
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
    except EtudeError as error:
        _pass_on(error, lambda one: [task.forward(one, b) for b in batches], model, network)
    except (RuntimeError, ValueError, IndexError):
        pass  # L-BFGS itself, where the loss is not finite or has no gradient
    with torch.no_grad():
        model.value.copy_(kept)
    return math.isfinite(best)


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
