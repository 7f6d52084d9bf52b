"""Metrics for classifiers: F1, balanced accuracy, top-k, areas under curves.

Outputs are scores. An output with the shape of the targets (or with an extra last axis of length
1) holds logits: of two classes, or of each label of a multilabel target (N, labels). Any other
output holds one score per class: (N, classes), (N, L, classes) or (N, classes, L). Targets equal
to -100 are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from etude.errors import TaskError
from etude.tasks.collect import IGNORED


@dataclass(frozen=True)
class Answers:
    """Scores and labels, in one layout that all metrics read.

    Attributes:
        scores: (M, classes), or (M, labels) logits.
        labels: (M,) class numbers, or (M, labels) of 0 and 1.
        asked: Mask of the labels that are not ignored, with the shape of `labels`.
        by_label: Whether each column is a separate two-class problem.
    """

    scores: Tensor
    labels: Tensor
    asked: Tensor
    by_label: bool


def answers(name: str, output: Tensor, target: Tensor) -> Answers:
    """Return outputs and targets in one layout.

    Raises:
        TaskError: If their shapes do not fit together.
    """
    if output.shape == (*target.shape, 1):
        output = output.squeeze(-1)
    if output.shape == target.shape:
        columns = target.shape[-1] if target.ndim > 1 else 1
        labels = target.reshape(-1, columns)
        return Answers(output.reshape(-1, columns), labels, labels != IGNORED, by_label=True)
    if output.ndim > 1 and output.shape[:-1] == target.shape:
        scores = output.reshape(-1, output.shape[-1])
    elif output.ndim > 1 and output.shape[:1] + output.shape[2:] == target.shape:
        scores = output.movedim(1, -1).reshape(-1, output.shape[1])
    else:
        raise TaskError(
            f"metric {name!r} cannot compare an output of shape {tuple(output.shape)} with "
            f"targets of shape {tuple(target.shape)}: give class scores of shape (N, classes) "
            "and labels of shape (N,)"
        )
    labels = target.reshape(-1)
    return Answers(scores, labels, labels != IGNORED, by_label=False)


# ---- sums ------------------------------------------------------------------------------------


def counts(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the function that computes the sums for F1 and balanced accuracy.

    The sums are the true positives, the predictions and the targets of every class, and last a 1
    if the columns are labels of a multilabel target, else a 0.
    """

    def sums(output: Tensor, target: Tensor) -> Tensor:
        a = answers(name, output, target)
        if a.by_label and a.scores.shape[1] > 1:
            guess, true = (a.scores > 0) & a.asked, (a.labels > 0.5) & a.asked
            return _counted(guess, true, by_label=True)
        if a.by_label:  # two classes, by one logit
            guessed, truth = (a.scores[:, 0] > 0).long(), (a.labels[:, 0] > 0.5).long()
            asked, classes = a.asked[:, 0], 2
        else:
            guessed, truth = a.scores.argmax(1), torch.where(a.asked, a.labels, 0).long()
            asked, classes = a.asked, a.scores.shape[1]
        eye = torch.eye(classes, dtype=torch.bool, device=output.device)
        kept = asked.unsqueeze(1)
        return _counted(eye[guessed] & kept, eye[truth] & kept, by_label=False)

    return sums


def _counted(guess: Tensor, true: Tensor, *, by_label: bool) -> Tensor:
    parts = [part.double().sum(0) for part in (guess & true, guess, true)]
    return torch.cat([*parts, parts[0].new_tensor([float(by_label)])])


def _split(sums: list[float]) -> tuple[list[tuple[float, float, float]], bool]:
    count = (len(sums) - 1) // 3
    columns = zip(sums[:count], sums[count : 2 * count], sums[2 * count : -1], strict=True)
    # The last number is summed over the batches too: it is above 0 if any batch had labels.
    return list(columns), sums[-1] > 0


def f1(sums: list[float]) -> float:
    """Return 2 TP / (predicted + actual): of class 1 of two, else the mean over the classes.

    A class that is neither predicted nor in the targets is left out; such a label counts as 0.
    """
    rows, by_label = _split(sums)
    if not any(true for _, _, true in rows):
        return math.nan
    if len(rows) == 2 and not by_label:
        rows = rows[1:]
    elif not by_label:
        rows = [row for row in rows if row[1] + row[2] > 0]
    values = [2 * hit / (guess + true) if guess + true else 0.0 for hit, guess, true in rows]
    return math.fsum(values) / len(values)


def balanced_accuracy(sums: list[float]) -> float:
    """Return the mean recall over the classes that occur in the targets."""
    rows, by_label = _split(sums)
    if by_label:
        raise TaskError(
            "metric 'balanced_accuracy' needs one class per target, and these targets have "
            "several labels: use 'f1' or 'average_precision'"
        )
    found = [hit / true for hit, _, true in rows if true]
    return math.fsum(found) / len(found) if found else math.nan


def top_k(name: str, k: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the function that counts the targets whose class is among the k highest scores."""

    def sums(output: Tensor, target: Tensor) -> Tensor:
        a = answers(name, output, target)
        if a.by_label or a.scores.shape[1] <= k:
            classes = 2 if a.by_label else a.scores.shape[1]
            raise TaskError(
                f"metric {name!r} of {classes} classes is 1 for every model: give a k below the "
                "number of classes, such as 'top2', or 'accuracy'"
            )
        truth = torch.where(a.asked, a.labels, 0).long().unsqueeze(1)
        hits = (a.scores.topk(k, 1).indices == truth).any(1) & a.asked
        return torch.stack([hits.double().sum(), a.asked.double().sum()])

    return sums


# ---- areas under curves ----------------------------------------------------------------------


def auroc(output: Tensor, target: Tensor) -> float:
    """Return the area under the ROC curve: the chance that a positive scores above a negative.

    Of several labels, or classes (each against the rest), the mean over those that have both
    positive and negative targets; NaN if none has.

    >>> auroc(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1]))
    0.75

    Source: Hanley & McNeil 1982; the mean over classes as Provost & Domingos 2000, unweighted.
    """
    return _over_classes("auroc", output, target, _area)


def average_precision(output: Tensor, target: Tensor) -> float:
    """Return Σ (Rₙ - Rₙ₋₁) Pₙ over the thresholds, with recall R and precision P.

    Of several labels, or classes (each against the rest), the mean over those that have both
    positive and negative targets; NaN if none has.

    >>> round(average_precision(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1])), 4)
    0.8333

    Source: scikit-learn's `average_precision_score`.
    """
    return _over_classes("average_precision", output, target, _precision)


def _over_classes(
    name: str, output: Tensor, target: Tensor, area: Callable[[Tensor, Tensor], float]
) -> float:
    a = answers(name, output, target)
    scores, values = a.scores.double(), []
    if a.by_label:
        columns = [
            (scores[:, i], a.labels[:, i] > 0.5, a.asked[:, i]) for i in range(scores.shape[1])
        ]
    elif scores.shape[1] == 2:
        columns = [(scores[:, 1] - scores[:, 0], a.labels == 1, a.asked)]
    else:
        shares = _probabilities(scores)
        columns = [(shares[:, i], a.labels == i, a.asked) for i in range(scores.shape[1])]
    for score, positive, asked in columns:
        score, positive = score[asked], positive[asked]
        if not torch.isfinite(score).all():
            return math.nan
        if positive.any() and not positive.all():
            values.append(area(score, positive))
    return math.fsum(values) / len(values) if values else math.nan


def _probabilities(scores: Tensor) -> Tensor:
    """Return class probabilities: the softmax of the scores, unless these are probabilities."""
    sums = scores.sum(1)
    if bool((scores >= 0).all()) and bool(
        torch.isclose(sums, torch.ones_like(sums), atol=1e-4).all()
    ):
        return scores
    return scores.softmax(1)


def _area(score: Tensor, positive: Tensor) -> float:
    _, place, ties = torch.unique(score, return_inverse=True, return_counts=True)
    last = ties.cumsum(0).double()
    rank = (last - (ties.double() - 1) / 2)[place]  # the mean rank of equal scores, from 1
    count = positive.double().sum()
    rest = len(positive) - count
    return float((rank[positive].sum() - count * (count + 1) / 2) / (count * rest))


def _precision(score: Tensor, positive: Tensor) -> float:
    _, place, ties = torch.unique(-score, return_inverse=True, return_counts=True)
    gained = torch.zeros(len(ties), dtype=torch.float64).index_add_(0, place, positive.double())
    precision = gained.cumsum(0) / ties.cumsum(0)
    return float((precision * gained).sum() / gained.sum())
