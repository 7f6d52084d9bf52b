"""The scale of what the first layer reads, and of the targets."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from etude.diagnosis.check.subject import Look, Subject
from etude.diagnosis.finding import Cause, Finding
from etude.layerwise.parts import kind_of
from etude.tasks.loss.loss_calls import SQUARES, LossCall
from etude.torch_internals import BATCH_NORMS
from etude.tuning.inspection import FAR

FAINT = 0.01
"""The largest distance from the mean, over all values, below which inputs are too small: sparse
inputs such as one-hot codes have a small standard deviation, but reach 1."""

UNEQUAL = 1000.0
"""The largest ratio of the standard deviations of two features of a table."""


ALIKE = 0.1
"""The ratio of outputs to targets from which a network is taken to scale its outputs itself."""


class FirstInput(NamedTuple):
    """What the first layer with weights reads.

    Attributes:
        layer: The layer's name.
        values: Its input on the batch; None if it reads whole numbers.
        axis: The axis of the features.
        normalises: Whether it is a normalisation.
        frozen: Whether none of its weights is trained.
    """

    layer: str
    values: Tensor | None
    axis: int
    normalises: bool
    frozen: bool


class _Found(Exception):  # noqa: N818 - no error: it ends the forward pass
    """Ends a forward pass at the first layer."""


def first_input(subject: Subject) -> FirstInput | None:
    """Return what the first layer with weights reads in a forward pass; None if it is unknown."""
    network = subject.network()
    seen: list[FirstInput] = []

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            values = next((a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), None)
            if values is None:
                return
            kept = values.detach() if values.is_floating_point() else None
            convolves = kind_of(module) == "convolution" or isinstance(module, BATCH_NORMS)
            axis = 1 if convolves and values.ndim > 1 else values.ndim - 1
            fixed = not any(p.requires_grad for p in module.parameters())
            normal = kind_of(module) == "normalisation"
            seen.append(FirstInput(name, kept, axis, normal, fixed))
            raise _Found

        return hook

    for name, module in network.named_modules():
        if kind_of(module) != "other" or _is_bare(module):
            module.register_forward_pre_hook(note(name), with_kwargs=True)
    try:
        with torch.no_grad():
            subject.forward(network, subject.batch)
    except Exception:  # the task wraps what its model raises
        if not seen:
            raise
    return seen[0] if seen else None


def _is_bare(module: nn.Module) -> bool:
    """Return whether a module of an unknown class has weights, and no modules that have some."""
    own = sum(1 for _ in module.parameters(recurse=False))
    return own > 0 and own == sum(1 for _ in module.parameters())


class Spread(NamedTuple):
    """The spread of some values, feature by feature.

    Attributes:
        mean: The root mean square of the features' means.
        spread: The root mean square of their standard deviations.
        low: The smallest standard deviation of a feature that changes.
        high: The largest.
        reach: The largest distance of a value from its feature's mean.
    """

    mean: float
    spread: float
    low: float
    high: float
    reach: float

    @classmethod
    def of(cls, values: Tensor, axis: int) -> Spread | None:
        """Return the scale; None if the values do not change, or are not finite."""
        flat = values.double().movedim(axis, -1).reshape(-1, values.shape[axis])
        if len(flat) < 2 or not bool(torch.isfinite(flat).all()):
            return None
        means, spreads = flat.mean(0), flat.std(0)
        moving = spreads[spreads > 1e-12 * flat.abs().amax(0).clamp(min=1e-300)]
        if not len(moving):
            return None
        return cls(
            float(means.square().mean().sqrt()),
            float(spreads.square().mean().sqrt()),
            float(moving.min()),
            float(moving.max()),
            float((flat - means).abs().max()),
        )

    @property
    def fault(self) -> str:
        """Why the scale is far from 1; empty if it is not."""
        if self.spread > FAR:
            return f"a standard deviation of about {self.spread:.2g}"
        if self.mean > FAR * max(1.0, self.spread):
            return f"a mean of about {self.mean:.2g} beside a deviation of {self.spread:.2g}"
        if self.reach < FAINT:
            return f"values within {self.reach:.2g} of their mean"
        return ""

    def answered_by(self, size: float) -> bool:
        """Return whether outputs of a size are of the size of such targets already.

        Args:
            size: The root mean square of the outputs.

        >>> Spread(0.0, 100.0, 100.0, 100.0, 300.0).answered_by(90.0)
        True
        """
        wanted = math.hypot(self.mean, self.spread)
        return ALIKE * wanted <= size <= wanted / ALIKE


def inputs(subject: Subject) -> Look:
    """Look at the scale of what the first layer reads: unscaled inputs.

    Silent if the first layer normalises, or reads whole numbers.

    Cost: one forward pass, which ends at the first layer.
    """
    found = first_input(subject)
    if found is None:
        return Look(unseen="the scale of the inputs: no layer with weights was called")
    if found.values is None:
        return Look(seen=f"the inputs are whole numbers, which {found.layer} reads from a table")
    if found.normalises:
        return Look(seen=f"the first layer, {found.layer}, normalises the inputs itself")
    if found.frozen:
        return Look(seen=f"the first layer, {found.layer}, is frozen: the inputs' scale is its own")
    scale = Spread.of(found.values, found.axis)
    if scale is None:
        return Look(unseen="the scale of the inputs: they do not change, or are not finite")
    seen = f"the scale of the inputs (mean {scale.mean:.2g}, standard deviation {scale.spread:.2g})"
    why = scale.fault
    if not why and found.values.ndim == 2 and scale.high > UNEQUAL * scale.low and scale.high > FAR:
        why = f"features whose standard deviations go from {scale.low:.2g} to {scale.high:.2g}"
    if not why:
        return Look(seen=seen)
    name = found.layer or "the model"
    return Look(
        (
            Finding(
                Cause.UNSCALED_INPUTS,
                layer=found.layer or None,
                evidence={
                    "mean": scale.mean, "deviation": scale.spread, "smallest": scale.low,
                    "largest": scale.high, "reach": scale.reach,
                },
                text=f"The inputs of the first layer, {name}, have {why}, far from 1.",
                fix="Bring every feature to mean 0 and standard deviation 1, with the numbers of "
                "the training data.",
            ),
        ),
        seen,
    )  # fmt: skip


def targets(subject: Subject) -> Look:
    """Look at the scale of numbers that a squared or absolute error compares: unscaled targets.

    Cost: one pass over the rows.
    """
    call = subject.call
    if call is None or call.name not in SQUARES:
        return Look(
            unseen="" if call is not None else "the scale of the targets: no loss of torch is used"
        )
    y = _numbers(subject, call)
    scale = None if y is None else Spread.of(y, 1)
    if scale is None:
        return Look(unseen="the scale of the targets: they do not change, or are no tensor")
    seen = (
        f"the scale of the targets (mean {scale.mean:.2g}, standard deviation {scale.spread:.2g})"
    )
    answer = float(call.scores.detach().double().square().mean().sqrt())
    if not scale.fault or scale.answered_by(answer):
        return Look(seen=seen)
    return Look(
        (
            Finding(
                Cause.UNSCALED_TARGETS,
                evidence={"mean": scale.mean, "deviation": scale.spread, "reach": scale.reach},
                text=f"The targets have {scale.fault}, far from the scale of an untrained "
                "network's outputs.",
                fix="Train on (target - mean) / standard deviation, and undo that in what you "
                "report.",
            ),
        ),
        seen,
    )


def _numbers(subject: Subject, call: LossCall) -> Tensor | None:
    """Return the numbers that the loss compares outputs with, one row for each sample."""
    known = subject.train.targets if subject.compares_targets else None
    y = call.target.detach() if known is None else known
    if not y.is_floating_point() or not y.ndim or not y.numel():
        return None
    return y.reshape(len(y), -1)
