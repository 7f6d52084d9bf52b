"""Labels: their classes, and whether they fit the loss and the network's outputs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from etude.diagnosis.check.subject import Look, Rows, Subject
from etude.diagnosis.finding import Cause, Finding
from etude.tasks.loss.loss_calls import SQUARES, LossCall
from etude.tasks.metrics import IGNORED

CLASSES = ("cross_entropy", "nll_loss")
LOGISTIC = ("binary_cross_entropy", "binary_cross_entropy_with_logits")

LEAST = 8
"""The number of labels below which nothing is said about their classes."""


def labels(subject: Subject) -> Look:
    """Look at the classes of the labels, and whether they fit the loss.

    One class only, or a class that only validation holds; and type, range, number of outputs and
    shape.

    Cost: one pass over the labels.
    """
    call = subject.call
    if call is None:
        what = "the loss calls none of torch's losses on the first batch"
        if subject.error is not None:
            what = "the network fails before the loss"
        return Look(unseen=f"whether the labels fit the loss: {what}")
    found = [*_misfits(call, subject)]
    balance = ""
    if call.name in (*CLASSES, *LOGISTIC):
        found += _classes(subject)
        balance = _balance(subject.train)
    return Look(tuple(found), f"labels against {call.name}{balance}")


def _misfits(call: LossCall, subject: Subject) -> Iterator[Finding]:
    """Yield what does not fit together."""
    if call.name in CLASSES:
        yield from _of_classes(call, subject)
    elif call.name in LOGISTIC:
        yield from _of_logistic(call, subject)
    if call.name in (*SQUARES, *LOGISTIC) and call.scores.shape != call.target.shape:
        yield _shapes(call)


def _shapes(call: LossCall) -> Finding:
    a, b = tuple(call.scores.shape), tuple(call.target.shape)
    return Finding(
        Cause.WRONG_LOSS_OR_OUTPUT,
        evidence={"output": str(a), "targets": str(b)},
        text=f"{call.name} compares an output of shape {a} with targets of shape {b}: each output "
        "is compared with the targets of other samples too, or not at all.",
        fix="Give both one shape: squeeze the output's last axis, or unsqueeze the targets.",
    )


def _of_classes(call: LossCall, subject: Subject) -> Iterator[Finding]:
    """Yield what does not fit between class numbers and the outputs of a network."""
    if call.target.is_floating_point():
        if call.target.shape != call.scores.shape:
            yield _no_class_numbers(call)
        return
    outputs = _outputs(call)
    if outputs == 1 and call.name in CLASSES:
        yield _one_output(call)
        return
    ignored = int(call.options.get("ignore_index", IGNORED))
    for what, rows in (("training", subject.train), ("validation", subject.valid)):
        y = _compared(subject, rows)
        if y is None:
            continue
        asked = y[y != ignored]
        if not len(asked):
            if len(y) and y is rows.targets and rows.whole:
                yield _unanswered(what, y, ignored)
                return
            continue
        found = _out_of_range(what, asked, outputs, ignored)
        if found is not None:
            yield found
            return


def _no_class_numbers(call: LossCall) -> Finding:
    target = call.target
    whole = bool((target == target.round()).all())
    return Finding(
        Cause.WRONG_LOSS_OR_OUTPUT,
        evidence={"type": str(target.dtype), "loss": call.name},
        text=f"The targets are {_type(target)} of shape {tuple(target.shape)}, but "
        f"{call.name} takes class numbers of type int64.",
        fix="Convert them with .long()." if whole else "Use mse_loss for such targets.",
        certain=True,
    )


def _one_output(call: LossCall) -> Finding:
    return Finding(
        Cause.WRONG_LAST_LAYER,
        evidence={"outputs": 1},
        text=f"The network has 1 output, but {call.name} takes one for each class: the only "
        "class always has the probability 1, and the loss is 0.",
        fix="Give the last layer one output per class, or use binary_cross_entropy_with_logits.",
        certain=True,
    )


def _out_of_range(what: str, asked: Tensor, outputs: int, ignored: int) -> Finding | None:
    """Return a finding where class numbers are below 0, or the outputs are too few for them."""
    low, high = int(asked.min()), int(asked.max())
    evidence: dict[str, float | str] = {
        "lowest": low, "highest": high, "outputs": outputs, "data": what,
    }  # fmt: skip
    if high >= outputs:
        fix = f"Give the last layer {high + 1} outputs"
        fix += ", or count the classes from 0." if low == 1 else "."
        return Finding(
            Cause.WRONG_LAST_LAYER,
            evidence=evidence,
            text=f"The {what} labels go up to {high}, but the network has {outputs} outputs, "
            f"for the classes 0 to {outputs - 1}.",
            fix=fix,
            certain=True,
        )
    if low < 0:
        return Finding(
            Cause.LABELS_DO_NOT_MATCH,
            evidence=evidence,
            text=f"The {what} labels go down to {low}: classes are counted from 0, and only "
            f"{ignored} is passed over.",
            fix=f"Number the classes from 0; write {ignored} where there is no target.",
            certain=True,
        )
    return None


def _unanswered(what: str, y: Tensor, ignored: int) -> Finding:
    return Finding(
        Cause.LABELS_DO_NOT_MATCH,
        evidence={"labels": y.numel(), "answered": 0, "data": what},
        text=f"All {y.numel()} {what} labels are {ignored}, which the loss passes over: there is "
        "nothing to learn from." if what == "training" else
        f"All {y.numel()} {what} labels are {ignored}, which the loss passes over: no loss can be "
        "computed on them.",
        fix="Check how the labels are read.",
        certain=True,
    )  # fmt: skip


def _of_logistic(call: LossCall, subject: Subject) -> Iterator[Finding]:
    """Yield a finding where targets of a logistic loss are outside of [0, 1]."""
    for what, rows in (("training", subject.train), ("validation", subject.valid)):
        y = _compared(subject, rows)
        if y is None or not y.numel():
            continue
        low, high = float(y.min()), float(y.max())
        if low < 0 or high > 1:
            yield Finding(
                Cause.LABELS_DO_NOT_MATCH,
                evidence={"lowest": low, "highest": high, "data": what},
                text=f"The {what} targets go from {low:g} to {high:g}, but {call.name} takes "
                "targets from 0 to 1.",
                fix="Write the two classes as 0 and 1; for more than two, use cross_entropy.",
                certain=True,
            )
            return
    if not call.target.is_floating_point():
        yield Finding(
            Cause.WRONG_LOSS_OR_OUTPUT,
            evidence={"type": str(call.target.dtype), "loss": call.name},
            text=f"The targets are {_type(call.target)}, but {call.name} takes floating-point "
            "targets.",
            fix="Convert them with .float().",
            certain=True,
        )


def _compared(subject: Subject, rows: Rows) -> Tensor | None:
    """Return what the loss compares outputs with: the data's targets, else those of the batch."""
    if subject.compares_targets and rows.targets is not None:
        return rows.targets
    return subject.call.target if subject.call is not None and rows is subject.train else None


def _classes(subject: Subject) -> Iterator[Finding]:
    """Yield a finding where there is one class only, or training lacks one of validation's."""
    y, held = _kept(subject.train), _kept(subject.valid)
    if y is None or len(y) < LEAST:
        return
    classes = torch.unique(y)
    part = "" if subject.train.whole else " that were looked at"
    if len(classes) == 1:
        if not _alike_in_batch(subject):
            return  # the loss compares something else, such as the inputs of an autoencoder
        if subject.train.whole or held is None or len(torch.unique(held)) == 1:
            yield Finding(
                Cause.LABELS_DO_NOT_MATCH,
                evidence={"class": float(classes[0]), "labels": len(y)},
                text=f"All {len(y)} training labels{part} are {float(classes[0]):g}: there is "
                "one class only, and nothing to tell apart.",
                fix="Check how the labels are read.",
                certain=subject.train.whole,
            )
        return
    if held is None or not subject.train.whole or y.ndim > 1:
        return
    values, counts = torch.unique(held, return_counts=True)
    known = set(classes.tolist())
    missing = {
        v: n for v, n in zip(values.tolist(), counts.tolist(), strict=True) if v not in known
    }
    if missing:
        rows = sum(missing.values())
        shown = ", ".join(f"{v:g}" for v in list(missing)[:5])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        yield Finding(
            Cause.BAD_DATA,
            evidence={"classes": shown + more, "labels": rows},
            text=f"{rows} validation labels are of classes that training does not hold: "
            f"{shown}{more}.",
            fix="Split the data so that both parts hold every class.",
        )


def _alike_in_batch(subject: Subject) -> bool:
    """Return whether the loss compares every sample of the first batch with the same target."""
    assert subject.call is not None
    y = subject.call.target.detach()
    return not y.ndim or bool((y == y[:1]).all())


def _kept(rows: Rows) -> Tensor | None:
    """Return the labels that count, one for each row; None if rows have other targets."""
    y = rows.targets
    if y is None or y.numel() != len(y):
        return None
    y = y.reshape(-1)
    return y[y != IGNORED]


def _outputs(call: LossCall) -> int:
    """Return the number of classes that the scores are for."""
    return int(call.scores.shape[1 if call.scores.ndim > 1 else 0])


def _balance(rows: Rows) -> str:
    y = _kept(rows)
    if y is None or not len(y):
        return ""
    _, counts = torch.unique(y, return_counts=True)
    low, high = float(counts.min()) / len(y), float(counts.max()) / len(y)
    return f" ({len(counts)} classes, from {low:.1%} to {high:.1%} of the training labels)"


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
