"""The order in which training reads the samples: sorted labels, and nothing that shuffles them."""

from __future__ import annotations

import math
import time
from collections import Counter

import torch
from torch import Tensor

from etude.diagnosis.check.subject import SECONDS, Look, Subject
from etude.diagnosis.finding import Cause, Finding
from etude.randomness import random_state_kept
from etude.tasks.sources.data import Cursor, IndexedData, rows

MOST = 4096
"""The largest number of samples that are read in the order of training."""

LEAST = 32
"""The smallest number of samples that are judged."""

SHARE, ERRORS = 0.2, 8.0
"""Neighbours must differ in label less often than this share of what chance gives, and less often
by this many standard errors."""


def order(subject: Subject) -> Look:
    """Look for samples that training reads sorted by their label.

    Of n samples in the order of training, neighbours differ (n - 1) (1 - Σ p²) times if the
    classes, of shares p, come in random order. Targets that are numbers count as sorted if none is
    below the one before it.

    Cost: one sweep over the loader, at most a second; nothing for tensors, which Etude shuffles.
    """
    task = subject.task
    if isinstance(task.train, IndexedData):
        return Look(seen="the order of the samples: they are shuffled in every epoch")
    labels, whole = _in_order(subject)
    if labels is None:
        return Look(unseen="the order of the samples: their targets are not one number each")
    if len(labels) < LEAST:
        return Look(unseen=f"the order of the samples: only {len(labels)} could be read")
    seen = f"the order of {len(labels)} samples"
    if labels.is_floating_point():
        rising = bool((labels.diff() >= 0).all()) or bool((labels.diff() <= 0).all())
        if not (rising and len(torch.unique(labels)) >= LEAST):
            return Look(seen=seen)
        return Look((_sorted(len(labels), "their targets", {"samples": len(labels)}),), seen)
    known = labels if whole else _all_labels(subject, labels)
    shares = torch.tensor(list(Counter(known.tolist()).values())).double() / len(known)
    chance = 1 - float(shares.square().sum())
    if chance < 0.01:
        if whole:
            return Look(seen=seen)
        return Look(unseen="the order of the samples: only one class could be read")
    expected = (len(labels) - 1) * chance
    changes = int((labels.diff() != 0).sum())
    error = math.sqrt(max(1.0, expected * (1 - chance)))
    if changes < SHARE * expected and expected - changes > ERRORS * error:
        evidence = {"samples": len(labels), "changes": changes, "by chance": round(expected)}
        return Look((_sorted(len(labels), "their label", evidence),), seen)
    return Look(seen=seen)


def _sorted(count: int, what: str, evidence: dict[str, int]) -> Finding:
    said = ""
    if "changes" in evidence:
        said = (
            f": the label changes {evidence['changes']} times, and would change about "
            f"{evidence['by chance']} times in random order"
        )
    return Finding(
        Cause.DATA_NOT_SHUFFLED,
        evidence=dict(evidence),
        text=f"Training reads its samples sorted by {what}, the first {count} of them{said}.",
        fix="Give the DataLoader shuffle=True; shuffle an IterableDataset where it is made.",
    )


def _in_order(subject: Subject) -> tuple[Tensor | None, bool]:
    """Return the targets in the order of training, and whether they are those of a whole epoch."""
    data, seed, size = subject.task.train, subject.recipe.seed, subject.run.batch_size
    found: list[Tensor] = []
    cursor, end = Cursor(), time.monotonic() + SECONDS
    with random_state_kept(0), data.untouched():
        for batch in data.stream(size, seed, cursor):
            if cursor.epoch > 0:
                break
            y = batch[-1] if isinstance(batch, (tuple, list)) else None
            if not isinstance(y, Tensor) or y.numel() != rows(batch) or y.is_complex():
                return None, False
            found.append(y.detach().cpu().reshape(-1))
            if sum(map(len, found)) >= MOST or time.monotonic() > end:
                return torch.cat(found), False
    return torch.cat(found) if found else None, True


def _all_labels(subject: Subject, labels: Tensor) -> Tensor:
    """Return labels of training and validation, which show the shares of the classes."""
    more = [labels]
    for part in (subject.train, subject.valid):
        y = part.targets
        if y is not None and y.numel() == len(y) and not y.is_floating_point():
            more.append(y.cpu().reshape(-1))
    return torch.cat(more)
