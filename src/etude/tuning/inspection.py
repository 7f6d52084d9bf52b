"""What the data and the outputs of a tuned model show at a look: scales, classes, probabilities."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from etude.errors import EtudeError
from etude.model_copy import copy_model
from etude.randomness import random_state_kept
from etude.tasks.loss.loss_calls import LossCalls, are_probabilities
from etude.tasks.metrics import IGNORED
from etude.tasks.sources.data import Cursor, rows
from etude.tasks.task import Task
from etude.training.evaluation.evaluate import move
from etude.training.machine.eager import eagerly
from etude.training.run import Run

SAMPLES = 512
"""Training samples that are looked at, at least."""

FAR = 30.0
"""Times one that a standard deviation, or a mean, may be before its scale is remarked on."""


@eagerly()
def remarks(run: Run) -> tuple[str, ...]:
    """Return what stands out in the training data and in what the model makes of it.

    Args:
        run: Its model is the trained one; it is left as it was.
    """
    task = run.task
    if task.step is not None or task.alternates:
        return ()
    try:
        batches = _batches(run)
        model = copy_model(run.model).eval()
        with torch.no_grad(), random_state_kept(0), run.autocast():
            _, output, target = task.forward(model, batches[0])
    except (EtudeError, RuntimeError, ValueError, TypeError):
        return ()
    found = [*_few(run), *_inputs(batches), *_targets(batches)]
    if isinstance(output, Tensor) and isinstance(target, Tensor):
        found += _probabilities(_given(task, output, target))
    return tuple(found)


def _given(task: Task, output: Tensor, target: Tensor) -> list[tuple[str, Tensor]]:
    """Return what a loss hands on to torch's, whatever function or module they stand in."""
    calls = LossCalls()
    try:
        with calls, torch.no_grad():
            task.compare(output, target)
    except (EtudeError, RuntimeError, ValueError, TypeError):
        return []
    return [(call.name, call.scores) for call in calls.seen]


def _batches(run: Run) -> list[Any]:
    found: list[Any] = []
    with random_state_kept(0), run.task.train.untouched():
        stream = run.task.train.stream(run.batch_size, run.recipe.seed, Cursor())
        most = min(SAMPLES, run.task.train.samples or SAMPLES)
        while sum(map(rows, found)) < most and len(found) < SAMPLES:
            found.append(move(next(stream), run.device))
    return found


def _few(run: Run) -> list[str]:
    if run.task.train.samples == 1:
        return ["The training data is a single row: there is nothing to tell it apart from."]
    return []


def _columns(batches: list[Any], place: slice) -> list[Tensor]:
    """Return the tensors of all batches joined, those of a tuple alone."""
    if not all(isinstance(batch, (tuple, list)) for batch in batches):
        return []
    columns = list(zip(*(batch[place] for batch in batches), strict=True))
    tensors = [c for c in columns if all(isinstance(t, Tensor) and t.ndim for t in c)]
    return [torch.cat(list(c)) for c in tensors if len({t.shape[1:] for t in c}) == 1]


def _inputs(batches: list[Any]) -> list[str]:
    scales = map(described_scale, _columns(batches, slice(None, -1)))
    return [
        f"The inputs have {scale}: bring every feature to mean 0 and standard deviation 1, with "
        "numbers of the training data."
        for scale in scales
        if scale is not None
    ]


def _targets(batches: list[Any]) -> list[str]:
    found = []
    for y in _columns(batches, slice(-1, None)):
        if y.is_floating_point():
            if (scale := described_scale(y)) is not None:
                found.append(
                    f"The targets have {scale}: train on (target - mean) / standard deviation, and "
                    "undo that in what you report."
                )
        elif not y.is_complex():
            found += _classes(y)
    return found


def _classes(y: Tensor) -> list[str]:
    """Remark on samples without an answered target, and on targets of one class."""
    found = []
    empty = int((y == IGNORED).flatten(1).all(1).sum()) if y.ndim > 1 else int((y == IGNORED).sum())
    if empty:
        found.append(
            f"{empty / len(y):.1%} of the training samples that were looked at have no target to "
            f"answer (all {IGNORED}): a batch of such samples alone teaches nothing, at any rate. "
            "Leave them out."
        )
    answered = y[y != IGNORED]
    if len(answered) > 1 and bool((answered == answered[0]).all()):
        found.append(
            f"All {len(answered)} training targets that were looked at are {int(answered[0])}: "
            "there is one class only, and nothing to tell apart."
        )
    return found


def described_scale(x: Tensor) -> str | None:
    """Describe mean and standard deviation over samples, where they are far from 0 and 1."""
    if not x.is_floating_point() or len(x) < 2:
        return None
    flat = x.double().flatten(1) if x.ndim > 1 else x.double()[:, None]
    spread = float(flat.std(0).square().mean().sqrt())
    mean = float(flat.mean(0).square().mean().sqrt())
    if not (math.isfinite(spread) and math.isfinite(mean)) or spread == 0:
        return None
    if 1 / FAR <= spread <= FAR and mean <= FAR * max(1.0, spread):
        return None
    return f"a mean of about {mean:.2g} and a standard deviation of about {spread:.2g}"


def _probabilities(given: list[tuple[str, Tensor]]) -> list[str]:
    """Remark on probabilities that a loss takes for logits, or for their logarithms."""
    names = {name for name, scores in given if are_probabilities(scores)}
    found = []
    if functional.cross_entropy.__name__ in names:
        found.append(
            "The model's outputs are probabilities, but cross_entropy takes logits and applies the "
            "softmax itself: leave the softmax out of the model."
        )
    elif functional.nll_loss.__name__ in names:
        found.append(
            "The model's outputs are probabilities, but nll_loss takes their logarithms: end the "
            "model in log_softmax."
        )
    return found
