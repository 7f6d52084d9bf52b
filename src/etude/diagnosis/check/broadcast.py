"""A loss of the user's own that subtracts the targets of all samples from the output of each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from etude.diagnosis.check.subject import Look, Subject
from etude.diagnosis.finding import Cause, Finding
from etude.errors import EtudeError

DIFFERENCES = ("sub", "__sub__", "__rsub__", "rsub", "subtract")


class _Differences(TorchFunctionMode):
    """Keeps the shapes of differences of an output and a target that have grown.

    Args:
        count: The number of samples.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.found: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        pair = [a for a in args[:2] if isinstance(a, Tensor)]
        if getattr(func, "__name__", "") in DIFFERENCES and len(pair) == 2:
            answers = [t for t in pair if t.requires_grad]
            square = (self.count, self.count)
            small = all(t.numel() == self.count for t in pair)
            if len(answers) == 1 and small and tuple(result.shape) == square:
                target = next(t for t in pair if not t.requires_grad)
                self.found.append((tuple(answers[0].shape), tuple(target.shape)))
        return result


def broadcast(subject: Subject) -> Look:
    """Look for a difference of N outputs and N targets that has N² entries.

    Cost: the loss of the first batch.
    """
    output, batch = subject.output, subject.batch
    if not (isinstance(output, Tensor) and output.ndim and output.requires_grad):
        return Look()
    count = len(output)
    seen = _Differences(count)
    try:
        with seen, torch.enable_grad():
            subject.task.compare(output, batch[-1])
    except EtudeError:
        return Look()
    if not seen.found or count < 2:
        return Look()
    answer, target = seen.found[0]
    return Look(
        (
            Finding(
                Cause.WRONG_LOSS_OR_OUTPUT,
                evidence={"output": str(answer), "targets": str(target)},
                text=f"The loss subtracts targets of shape {target} from outputs of shape "
                f"{answer}, which makes {count}×{count} differences: each output is compared with "
                "the targets of all samples.",
                fix="Give both one shape: squeeze the output's last axis, or unsqueeze the "
                "targets.",
            ),
        ),
    )
