"""Rows that occur more than once: within the training data, and in the validation data too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etude.diagnosis.check.subject import Look, Rows, Subject
from etude.diagnosis.finding import Cause, Finding

SHARED, ROWS_SHARED = 0.05, 5
"""The share, and number, of validation rows that must be copies of training rows."""

COPIED, OTHERS = 0.5, 0.05
"""The share of a class's rows that must be copies, and the largest share in all other classes."""

HALF, MANY = 0.5, 20
"""A feature with as many values as this share of the different rows, and at least this number, is a
continuous one."""


def duplicates(subject: Subject) -> Look:
    """Look for validation rows that training holds too, and for a class that copies have blown up.

    Rows count as copies if all their tensors are equal to the bit. Where rows repeat by their
    nature, as those of a table of few categories do, only what goes beyond that counts:

        share of validation rows that training holds
            - share of training rows that occur there more than once ≥ 5%

    Cost: one hash of every row.
    """
    train, valid = subject.train, subject.valid
    if not train.columns or not valid.columns:
        return Look(unseen="duplicate rows: the data holds no tensors of one shape")
    keys, held = _keys(list(train.columns.values())), _keys(list(valid.columns.values()))
    if _all_alike(train):
        return Look(seen="duplicate rows: all inputs are alike")
    counts = Counter(keys)
    within = sum(1 for key in keys if counts[key] > 1) / len(keys)
    shared = [row for row, key in enumerate(held) if key in counts]
    part = "" if train.whole and valid.whole else " that were looked at"
    seen = (
        f"duplicate rows ({within:.1%} of the training rows{part} have a copy there, "
        f"{len(shared)} of {len(held)} validation rows are in training)"
    )
    continuous = _is_continuous(train, len(counts))
    excess = len(shared) / len(held) - (0.0 if continuous else within)
    found: list[Finding] = []
    if len(shared) >= ROWS_SHARED and excess >= SHARED:
        found.append(
            Finding(
                Cause.BAD_DATA,
                evidence={
                    "shared": len(shared), "validation rows": len(held),
                    "first": valid.number(shared[0]),
                },
                text=f"{len(shared)} of {len(held)} validation rows{part} are copies of training "
                "rows: the validation loss does not tell how the network does on new data.",
                fix="Drop the copies before the data is split.",
            )
        )  # fmt: skip
    found += _of_one_class(train, keys, counts)
    return Look(tuple(found), seen)


def _of_one_class(train: Rows, keys: Sequence[bytes], counts: Counter[bytes]) -> list[Finding]:
    """Return a finding if one class consists of copies, and is larger than any other by them."""
    labels = train.targets
    if labels is None or labels.is_floating_point() or labels.ndim != 1:
        return []
    classes = labels.tolist()
    rows_of = Counter(classes)
    extra: Counter[Any] = Counter()  # copies beyond the first
    first: set[bytes] = set()
    for key, label in zip(keys, classes, strict=True):
        extra[label] += key in first
        first.add(key)
    shares = {label: extra[label] / rows_of[label] for label in rows_of}
    worst = max(shares, key=lambda label: shares[label])
    others = [label for label in rows_of if label != worst]
    if not others or shares[worst] < COPIED or max(shares[o] for o in others) > OTHERS:
        return []
    if rows_of[worst] <= 2 * max(rows_of[o] for o in others):
        return []
    most = max(counts.values())
    return [
        Finding(
            Cause.BAD_DATA,
            evidence={"class": float(worst), "copies": extra[worst], "rows": rows_of[worst]},
            text=f"{extra[worst]} of the {rows_of[worst]} training rows of class {worst} are "
            f"copies of others (one occurs {most} times), while the other classes have hardly any.",
            fix="Drop the copies, or draw the classes with equal chance.",
        )
    ]


def _all_alike(rows: Rows) -> bool:
    inputs = [t for t in rows.inputs.values() if t.ndim]
    return all(bool((t == t[:1]).all()) for t in inputs)


def _is_continuous(rows: Rows, different: int) -> bool:
    """Return whether two input features take a value of their own in most of the different rows."""
    count = 0
    for tensor in rows.inputs.values():
        if not tensor.is_floating_point():
            continue
        flat = tensor.reshape(len(tensor), -1)
        spread = flat.double().std(0)
        busiest = spread.nan_to_num().argsort(descending=True)[:8]
        for feature in busiest.tolist():
            count += len(torch.unique(flat[:, feature])) >= max(MANY, HALF * different)
            if count >= 2:
                return True
    return False


def _keys(tensors: Sequence[Tensor]) -> list[bytes]:
    """Return the bytes of each row, hashed where rows are long."""
    from hashlib import blake2b

    flat = [t.detach().cpu().reshape(len(t), -1).contiguous() for t in tensors]
    parts = [np.ascontiguousarray(_plain(t).numpy()).view(np.uint8) for t in flat if t.shape[1]]
    joined = np.concatenate([p.reshape(len(p), -1) for p in parts], axis=1)
    return [blake2b(row.tobytes(), digest_size=16).digest() for row in joined]


def _plain(tensor: Tensor) -> Tensor:
    """Return a tensor of a type that NumPy has; -0 becomes 0, to which it is equal."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor).flatten(1)
    if tensor.is_floating_point():
        return tensor.double() + 0.0 if tensor.dtype == torch.float64 else tensor.float() + 0.0
    return tensor
