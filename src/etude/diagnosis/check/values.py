"""The values of the data: NaN and Inf, features that never change, rows that are all alike."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from etude.diagnosis.check.subject import Look, Rows, Subject, attempt
from etude.diagnosis.finding import Cause, Finding
from etude.tasks.sources.data import TensorData
from etude.training.checks.check import faults, mixed

LEAST = 8
"""The number of rows below which nothing is said about features that never change."""

DENSE = 0.5
"""The share of entries other than 0 from which on a table counts as dense."""


def not_finite(subject: Subject) -> Look:
    """Look for NaN and Inf that the loss does not pass over.

    Cost: one pass over the rows, and one forward pass if there are any.
    """
    found: list[Finding] = []
    passed = ""
    for what, data, rows in (
        ("training", subject.task.train, subject.train),
        ("validation", subject.task.valid, subject.valid),
    ):
        tensors = _whole(data, rows)
        said = faults(tensors, subject.task, getattr(data, "origin", None))
        if not said:
            continue
        loss = _loss_there(subject, data, rows)
        if loss is not None and math.isfinite(loss):
            passed += f"; the {what} data holds NaN or Inf, which the loss passes over"
            continue
        found.append(
            Finding(
                Cause.BAD_DATA,
                evidence={"data": what, "where": said},
                text=f"In the {what} data, {said}.",
                fix="Remove these rows or fill in the values; look for a division by zero or a "
                "missing value where the data is made.",
                certain=loss is not None,
            )
        )
    return Look(tuple(found), f"NaN and Inf in {_counted(subject)}{passed}")


def _whole(data: Any, rows: Rows) -> Any:
    """Return all rows of tensors, else those that were read, as `faults` takes them."""
    if isinstance(data, TensorData):
        return data.tensors
    return tuple(rows.columns.values()) if rows.targets is not None else dict(rows.columns)


def _loss_there(subject: Subject, data: Any, rows: Rows) -> float | None:
    """Return the loss of a batch with the first row that is not finite; None if it has none."""
    columns = list(_tensors(data) if isinstance(data, TensorData) else rows.columns.values())
    row = min((int(b[0]) for t in columns if len(b := _bad_rows(t))), default=None)
    if row is None or not isinstance(subject.batch, (tuple, list, dict)):
        return None
    one: Any = [t[row : row + 1].to(subject.run.device) for t in columns]
    if len(one) != len(subject.batch):
        return None
    if isinstance(subject.batch, dict):
        one = dict(zip(rows.columns, one, strict=True))
        one = {name: one.get(repr(name), one.get(name)) for name in subject.batch}
    return attempt(subject, subject.network(), mixed(subject.batch, one))


def _tensors(data: TensorData) -> list[Tensor]:
    return list(data.tensors.values() if isinstance(data.tensors, dict) else data.tensors)


def _bad_rows(tensor: Tensor) -> Tensor:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return torch.zeros(0, dtype=torch.long)
    return (~torch.isfinite(tensor)).reshape(len(tensor), -1).any(1).nonzero().flatten()


def constant_features(subject: Subject) -> Look:
    """Look for inputs that are the same in every row, and tables of which half never changes.

    Some constant features are usual, such as the corners of images, and do no harm.

    Cost: one pass over the rows.
    """
    found: list[Finding] = []
    rows = subject.train
    inputs = {name: t for name, t in rows.inputs.items() if t.numel() and t.dtype != torch.bool}
    if rows.count < LEAST or not inputs:
        few = rows.count < LEAST
        return Look(
            unseen=f"constant features: there are only {rows.count} rows" if few
            else "constant features: the inputs are no tensors"
        )  # fmt: skip
    shares = []
    same = {name: _constant(t) for name, t in inputs.items()}
    if all(bool(s.all()) for s in same.values()):
        found.append(
            Finding(
                Cause.BAD_DATA,
                evidence={"rows": rows.count},
                text=f"All {rows.count} training rows that were looked at have the same inputs: "
                "there is nothing to tell them apart by.",
                fix="Check how the inputs are read: they may be overwritten or filled with zeros.",
                certain=rows.whole and subject.compares_targets and len(inputs) == len(rows.inputs),
            )
        )
    else:
        for name, mask in same.items():
            count, total = int(mask.sum()), mask.numel()
            shares.append(f"{count} of {total} in {name}")
            if 2 * count >= total > 1 and inputs[name].ndim == 2 and _dense(inputs[name], mask):
                found.append(
                    Finding(
                        Cause.BAD_DATA,
                        evidence={"input": name, "constant": count, "features": total},
                        text=f"{count} of the {total} features of {name} have the same value in "
                        f"all {rows.count} training rows that were looked at.",
                        fix="Check how these columns are read, and leave out those that carry "
                        "nothing.",
                    )
                )
    return Look(tuple(found), f"constant features ({', '.join(shares) or 'all'})")


def _constant(tensor: Tensor) -> Tensor:
    flat = tensor.reshape(len(tensor), -1)
    return (flat == flat[:1]).all(0)


def _dense(table: Tensor, constant: Tensor) -> bool:
    """Return whether the features that change are mostly not 0: no one-hot code, no word counts."""
    rest = table.reshape(len(table), -1)[:, ~constant]
    return rest.is_floating_point() and float((rest != 0).float().mean()) >= DENSE


def _counted(subject: Subject) -> str:
    rows = [_whole_count(d, r) for d, r in (
        (subject.task.train, subject.train), (subject.task.valid, subject.valid),
    )]  # fmt: skip
    return f"{rows[0]} training and {rows[1]} validation rows"


def _whole_count(data: Any, rows: Rows) -> int:
    return data.samples if isinstance(data, TensorData) else rows.count
