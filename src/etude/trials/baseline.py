"""The score of the best constant output, which a network that learns from its inputs must beat."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from etude.errors import EtudeError
from etude.model_copy import copy_model
from etude.randomness import random_state_kept
from etude.record import Evaluation
from etude.tasks.sources.data import Cursor, rows
from etude.tasks.task import Task
from etude.training.checks.check import leaves
from etude.training.evaluation.evaluate import evaluate, move
from etude.training.machine.device import deterministic
from etude.training.machine.eager import eagerly
from etude.training.run import Run
from etude.training.state.state import RunState
from etude.trials.score import Goal

SAMPLES, NUMBERS = 1024, 500_000
"""The largest number of training samples, and of scalars in their outputs, to fit the constant."""

LARGEST = 100_000
"""The largest number of scalars in one sample's output for which a constant is fitted."""

ITERATIONS = 25
"""The number of iterations of L-BFGS."""


class ConstantOutput(nn.Module):
    """A network whose output does not depend on its inputs.

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


@eagerly()
def constant_score(run: Run | RunState) -> Evaluation | None:
    """Return the score of the best constant output on the validation data; None without one.

        c* = argmin over c of the mean loss of (c, target) on the training data

    It is fitted by L-BFGS on up to 1024 training samples. No gradient of the network is computed.

    Args:
        run: The run, whose model gives the shape of an output and does not change.

    Raises:
        TaskError: If the user's loss or metric raises an error that is not caused by the constant;
            see `_pass_on`.
    """
    task = run.task
    if task.step is not None or task.alternates:
        return None
    with deterministic(run.device), random_state_kept(0), task.train.untouched():
        stream = run.task.train.stream(run.batch_size, run.recipe.seed, Cursor())
        first = move(next(stream), run.device)
        network = copy_model(run.model).eval()
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

        def scored(candidate: nn.Module) -> Evaluation:
            return evaluate(task, candidate, batch_size=size, device=run.device)

        try:
            found = scored(model)
        except EtudeError as error:
            _pass_on(error, scored, model, network)
            return None
    return found if math.isfinite(found.loss) else None


def _pass_on(
    error: EtudeError, call: Callable[[nn.Module], object], constant: nn.Module, network: nn.Module
) -> None:
    """Raise an error of the user's code again, unless the constant output causes it.

    The constant causes it if the call fails again for the constant, but not for the network: a loss
    may need more than an output, or refuse some values. An error that does not repeat, or that the
    network's output raises too, has another cause.
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
    """Return whether all inputs of a batch are equal, so that any output is a constant."""
    inputs = list(leaves(batch[:-1])) if isinstance(batch, (tuple, list)) else list(leaves(batch))
    return all(bool((x == x[:1]).all()) for x in inputs if x.ndim)


def _start(run: Run | RunState, network: nn.Module, batch: Any) -> Tensor | None:
    """Return the start value: the mean target if it has an output's shape, else the mean output."""
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
    """Return the mean target of all batches if it has an output's shape, else the start value."""
    targets = [b[-1] for b in batches if isinstance(b, (tuple, list))]
    fit = [t for t in targets if isinstance(t, Tensor) and t.shape[1:] == start.shape]
    if len(fit) < len(batches) or not all(t.ndim and t.is_floating_point() for t in fit):
        return start
    return torch.cat(fit).float().mean(0).to(start.dtype)


def _weights(task: Task, model: nn.Module, batches: list[Any]) -> list[float]:
    """Return the weight of each batch in the mean over all answered targets.

    It is the number of samples if the loss does not tell, or if its own weights are proportional.
    """
    sizes = [float(rows(batch)) for batch in batches]
    with torch.enable_grad():  # a loss may need it
        known = [task.weighed(model, batch)[0].weight for batch in batches]
    weights = [float(weight) for weight in known if weight is not None]
    if len(weights) < len(sizes):
        return sizes
    alike = all(w * sizes[0] == weights[0] * n for w, n in zip(weights, sizes, strict=True))
    return sizes if alike else weights


def _fit(task: Task, model: ConstantOutput, network: nn.Module, batches: list[Any]) -> bool:
    """Minimise the mean loss; if the loss refuses a value, keep the best value before.

    Returns:
        Whether the loss is finite for some value.
    """
    try:
        found = _weights(task, model, batches)
    except EtudeError as error:
        _pass_on(error, lambda candidate: _weights(task, candidate, batches), model, network)
        return False
    answered = [batch for batch, weight in zip(batches, found, strict=True) if weight]
    weights = [weight for weight in found if weight]
    if not answered:
        return False
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=ITERATIONS, line_search_fn="strong_wolfe"
    )
    best, kept = math.inf, model.value.detach().clone()

    def closure() -> Tensor:
        nonlocal best, kept
        optimizer.zero_grad()
        losses = [task.forward(model, b)[0] * w for b, w in zip(answered, weights, strict=True)]
        loss = torch.stack(losses).sum() / sum(weights)
        loss.backward()  # type: ignore[no-untyped-call]
        if float(loss.detach()) < best:
            best, kept = float(loss.detach()), model.value.detach().clone()
        return loss

    try:
        with torch.enable_grad():
            optimizer.step(closure)  # type: ignore[no-untyped-call]
    except EtudeError as error:
        _pass_on(
            error, lambda candidate: [task.forward(candidate, b) for b in batches], model, network
        )
    except (RuntimeError, ValueError, IndexError):
        pass  # L-BFGS failed, because the loss is not finite or has no gradient
    with torch.no_grad():
        model.value.copy_(kept)
    return math.isfinite(best)


SURE = 3.0
"""The number of standard errors by which a score must be better than that of a constant."""

LEAST = 0.005
"""The share of the constant's score by which a score must be better at least."""


def better(found: Evaluation, floor: Evaluation, goal: Goal, errors: float = SURE) -> bool:
    """Return whether a score is better than that of a constant by more than noise.

        mean(d) < -max(errors * s(d) / sqrt(n), 0.005 |floor|)

    where d are the differences found - floor of the n slices, and s is their standard deviation.

    Args:
        found: The evaluation of the network.
        floor: The evaluation of the constant, on the same slices.
        goal: The loss or metric to compare.
        errors: The number of standard errors.

    >>> floor = Evaluation(0, 1.0, None, (0.9, 1.1))
    >>> better(Evaluation(9, 0.5, None, (0.4, 0.6)), floor, Goal())
    True
    >>> better(Evaluation(9, 0.9, None, (0.4, 1.4)), floor, Goal())
    False
    """
    gain = goal.score(floor) - goal.score(found)
    if not math.isfinite(gain):
        return math.isfinite(goal.score(found))
    return gain > max(errors * noise(found, floor, goal), LEAST * abs(goal.score(floor)))


def noise(first: Evaluation, second: Evaluation, goal: Goal) -> float:
    """Return the standard error of the difference of two scores over slices; 0 for one slice."""
    pairs = zip(goal.parts(first), goal.parts(second), strict=False)
    differences = [a - b for a, b in pairs if math.isfinite(a) and math.isfinite(b)]
    if len(differences) < 2:
        return 0.0
    centre = math.fsum(differences) / len(differences)
    spread = math.fsum((d - centre) ** 2 for d in differences) / (len(differences) - 1)
    return math.sqrt(spread / len(differences))
