"""Which causes a symptom can come from: what a repair tries, since a symptom proves none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from etude.diagnosis.finding import Cause, Finding, Symptom

SUSPECTS: Mapping[Symptom, Sequence[Cause]] = MappingProxyType(
    {
        Symptom.VANISHING: (
            Cause.SATURATING_ACTIVATION,
            Cause.MISSING_NORMALISATION,
            Cause.MISSING_RESIDUAL,
            Cause.BAD_INITIALISATION,
        ),
        Symptom.EXPLODING: (
            Cause.BAD_INITIALISATION,
            Cause.MISSING_CLIPPING,
            Cause.MISSING_NORMALISATION,
            Cause.LR_TOO_HIGH,
        ),
        Symptom.DEAD: (
            Cause.LR_TOO_HIGH,
            Cause.BAD_INITIALISATION,
            Cause.UNSCALED_INPUTS,
            Cause.MISSING_NORMALISATION,
        ),
        Symptom.SATURATED: (
            Cause.SATURATING_ACTIVATION,
            Cause.UNSCALED_INPUTS,
            Cause.BAD_INITIALISATION,
            Cause.LR_TOO_HIGH,
        ),
        Symptom.DIVERGING: (
            Cause.LR_TOO_HIGH,
            Cause.UNSCALED_INPUTS,
            Cause.UNSCALED_TARGETS,
            Cause.WARMUP_MISSING,
            Cause.MISSING_CLIPPING,
        ),
        Symptom.OSCILLATING: (Cause.LR_TOO_HIGH, Cause.BATCH_TOO_SMALL, Cause.MISSING_CLIPPING),
        Symptom.STALLED: (
            Cause.LR_TOO_LOW,
            Cause.LR_TOO_HIGH,
            Cause.SATURATING_ACTIVATION,
            Cause.BAD_INITIALISATION,
            Cause.MISSING_NORMALISATION,
            Cause.WRONG_LOSS_OR_OUTPUT,
        ),
        Symptom.SLOW: (Cause.LR_TOO_LOW, Cause.BATCH_TOO_LARGE, Cause.OPTIMIZER_MISMATCH),
        Symptom.SPIKING: (Cause.WARMUP_MISSING, Cause.MISSING_CLIPPING, Cause.LR_TOO_HIGH),
        Symptom.OVERFITTING: (Cause.TOO_LITTLE_REGULARISATION,),
        Symptom.CONSTANT_OUTPUT: (
            Cause.LR_TOO_HIGH,
            Cause.BAD_INITIALISATION,
            Cause.SATURATING_ACTIVATION,
            Cause.UNSCALED_INPUTS,
            Cause.MISSING_NORMALISATION,
            Cause.TOO_MUCH_REGULARISATION,
        ),
    }
)
"""The causes of each symptom that a remedy can mend, the most frequent first."""


def stated(findings: Sequence[Finding]) -> tuple[Cause, ...]:
    """Return the causes among findings.

    >>> stated([Finding(Symptom.SLOW, ""), Finding(Cause.UNSCALED_INPUTS, "")])
    (<Cause.UNSCALED_INPUTS: 'unscaled_inputs'>,)
    """
    causes = [finding.what for finding in findings if isinstance(finding.what, Cause)]
    return tuple(dict.fromkeys(causes))


INFERRED = (Cause.SATURATING_ACTIVATION, Cause.LR_TOO_LOW)
"""Causes that a rule infers from symptoms, so that the symptoms may have another cause."""


def facts(findings: Sequence[Finding]) -> tuple[Cause, ...]:
    """Return the causes among findings that are facts of the loop, the data or the network.

    >>> facts([Finding(Cause.BAD_DATA, ""), Finding(Cause.SATURATING_ACTIVATION, "")])
    (<Cause.BAD_DATA: 'bad_data'>,)
    """
    return tuple(cause for cause in stated(findings) if cause not in INFERRED)


def suspects(findings: Sequence[Finding]) -> tuple[Cause, ...]:
    """Return the causes that the symptoms among findings can come from.

    The first suspect of each symptom comes first; then the second of each, and so on.

    >>> [str(cause) for cause in suspects([Finding(Symptom.SLOW, "")])][:2]
    ['lr_too_low', 'batch_too_large']
    """
    lists = [SUSPECTS.get(f.what, ()) for f in findings if isinstance(f.what, Symptom)]
    longest = max(map(len, lists), default=0)
    possible = [causes[i] for i in range(longest) for causes in lists if i < len(causes)]
    return tuple(dict.fromkeys(possible))
