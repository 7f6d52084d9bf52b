"""Whether the network uses its inputs: against itself with inputs of zeros, and a constant."""

from __future__ import annotations

import math

from torch import Tensor

from etude.diagnosis.check.short_run import beginning, blind
from etude.diagnosis.check.subject import Look, Subject
from etude.diagnosis.finding import Finding, Symptom
from etude.errors import EtudeError
from etude.trials.baseline import constant_score

SAME = 1e-5
"""The largest relative difference of losses that do not depend on the inputs."""


def inputs_used(subject: Subject) -> Look:
    """Train the network as it is and with inputs of zeros, from the same weights.

    It is a finding if the losses of all updates are equal: the outputs do not depend on the inputs.
    A network that does no better after so few updates may only be slow: this is told, and is no
    finding.

    Cost: 2 · 24 updates of the recipe, at most 4 seconds, and the fit of a constant.
    """
    what = "whether the network beats itself with inputs of zeros"
    if not subject.is_plain:
        return Look(unseen=f"{what}: the task has a step of its own")
    if _zero_already(subject):
        return Look(unseen=f"{what}: the inputs of the first batch are all alike")
    seeing = subject.beginning
    try:
        not_seeing = beginning(blind(subject.task), subject.recipe, subject.run.device)
    except EtudeError as error:
        return Look(unseen=f"{what}: {error}")
    if seeing is None:
        return Look(unseen=f"{what}: the recipe cannot be trained")
    pairs = list(zip(seeing.losses, not_seeing.losses, strict=False))
    if len(pairs) < 2:
        return Look(unseen=f"{what}: an update takes too long")
    if not any(loss for pair in pairs for loss in pair):
        return Look(unseen=f"{what}: the loss of every update is 0")
    if all(math.isclose(a, b, rel_tol=SAME, abs_tol=1e-12) for a, b in pairs):
        return Look((_ignored(len(pairs)),), f"{len(pairs)} updates with inputs of zeros")
    own, other = (
        math.fsum(losses) / len(losses)
        for losses in zip(*pairs[-max(1, len(pairs) // 4) :], strict=True)
    )
    constant = _constant(subject)
    said = (
        f"in {len(pairs)} updates the training loss came to {own:.4g}, with inputs of zeros to "
        f"{other:.4g}{constant}"
    )
    if own < other:
        return Look(seen=f"that the network uses its inputs: {said}")
    return Look(unseen=f"{what}: {said}, so few updates do not tell")


def _zero_already(subject: Subject) -> bool:
    inputs = [t for t in subject.batch[:-1] if isinstance(t, Tensor) and t.ndim]
    return not inputs or all(bool((t == t[:1]).all()) for t in inputs)


def _constant(subject: Subject) -> str:
    """Return the loss of the best constant output on the validation data, as words."""
    try:
        found = constant_score(subject.run)
    except EtudeError:
        return ""
    return "" if found is None else f", and the best constant output has {found.loss:.4g}"


def _ignored(count: int) -> Finding:
    return Finding(
        Symptom.CONSTANT_OUTPUT,
        evidence={"updates": count},
        text=f"The losses of the first {count} updates are the same with inputs of zeros: the "
        "outputs do not depend on the inputs.",
        fix="Look for units that never fire, inputs that are not passed on, and a gradient that "
        "ends at detach().",
    )
