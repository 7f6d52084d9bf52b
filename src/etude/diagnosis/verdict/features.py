"""The features of a verdict: of the whole run, and of each cause, each with one name for all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from etude.diagnosis.finding import Cause, Symptom
from etude.diagnosis.suspects import SUSPECTS, facts, stated
from etude.diagnosis.verdict.evidence import Evidence
from etude.diagnosis.verdict.hints import HINTS, hints
from etude.diagnosis.verdict.probes import CAUSES, SHORT
from etude.diagnosis.verdict.shape import Shape, shape_of
from etude.diagnosis.verdict.units import ramp

OF_RUN = (
    "a cause is stated",
    "a symptom is seen",
    "not learned",
    "best gain",
    "best gain of a quarter",
    "best gain over what is left",
    "best hint",
    "no progress",
    "broken",
    "overfitted",
)
"""Features of the whole run, which tell a faulty run from a healthy one."""

OF_CAUSE = (
    "stated",
    "hint",
    "suspected",
    "gain",
    "gain of a quarter",
    "best probe",
    "share of the best gain",
    "lead over other causes",
    "probe without gain",
    "hint and gain",
    "no probe and no hint",
    "a simpler change does as well",
)
"""Features of each cause, which tell causes apart; all causes share their weights."""

PROPER = tuple(f"{what} of {cause}" for cause in HINTS for what in ("hint", "gain"))
"""What is one cause's own: by how much its hint and its probe weigh more than those of others. It
is half as large, so that the penalty of the fit keeps it small."""

Features = Mapping[str, float]


def _clip(value: float, low: float = 0.0, high: float = 1.0) -> float:
    return 0.0 if math.isnan(value) else min(max(value, low), high)


def gains(known: Evidence) -> tuple[dict[Cause, float], dict[Cause, float]]:
    """Return the largest gain by a probe of each cause: of whole runs, and of a quarter.

    A gain is in units of what a constant output leaves wrong. Where the loss alone gains, as by
    taking a doubled softmax out, half of that counts. Of a run that is far worse than a constant,
    every change that keeps it from diverging gains much: of such gains only the part below the
    largest is told apart, so that a change that reaches the error of the best one has 1.
    """
    whole: dict[Cause, float] = {}
    quarter: dict[Cause, float] = {}
    for one in () if known.probes is None else known.probes.probes:
        value = max(one.gain, 0.5 * min(one.loss_gain, 1.0))
        found = quarter if one.share == SHORT else whole
        for cause in CAUSES[one.name]:
            found[cause] = max(found.get(cause, -math.inf), value)
    return _bounded(whole), _bounded(quarter)


def _bounded(gained: dict[Cause, float]) -> dict[Cause, float]:
    """Return gains without what the largest of them is above 1."""
    above = max(max(gained.values(), default=0.0) - 1.0, 0.0)
    return {cause: max(own - above, min(own, 0.0)) for cause, own in gained.items()}


def features_of_run(known: Evidence) -> Features:
    """Return the features of a whole run by name; what is not known is 0.

    >>> set(features_of_run(Evidence()).values())
    {0.0}
    """
    whole, quarter = gains(known)
    shape = Shape() if known.history is None else shape_of(known.history)
    hinted = hints(known)
    speaks = [v for cause, v in hinted.items() if not math.isnan(v) and cause not in GENERAL]
    mature = _mature(known)
    symptoms = {f.what for f in known.findings if isinstance(f.what, Symptom)}
    values = (
        float(bool(stated(known.findings))),
        float(bool(symptoms)),
        _not_learned(known),
        _clip(max(whole.values(), default=0.0)),
        _clip(max(quarter.values(), default=0.0)),
        _clip(max(whole.values(), default=0.0) / (_not_learned(known) + 0.1)),
        mature * max(speaks, default=0.0),
        0.0 if math.isnan(shape.progress) else mature * (1.0 - ramp(shape.progress, 0.02, 0.3)),
        _clip(shape.broken),
        _clip(hinted.get(Cause.TOO_LITTLE_REGULARISATION, 0.0)),
    )
    return MappingProxyType(dict(zip(OF_RUN, values, strict=True)))


YOUNG, MATURE = 50, 150
"""A loop that has made fewer updates than the first says nothing by its loss; from the second on
it is a run. Where a task is known, the watched run is the whole one."""


def _mature(known: Evidence) -> float:
    """Return how far the watched updates are a run: 0 for the first ones, 1 for a whole run."""
    if known.measures is not None:
        return 1.0
    return 0.0 if known.history is None else ramp(known.history.updates, YOUNG, MATURE)


def _not_learned(known: Evidence) -> float:
    """Return the error at the end over that of the best constant output; 0 if it is not known."""
    if known.probes is not None and not math.isnan(known.probes.learned):
        return _clip(1.0 - known.probes.learned)
    return 0.0


def features_of_causes(known: Evidence) -> dict[Cause, Features]:
    """Return the features of each cause by name; what is not known is 0."""
    whole, quarter = gains(known)
    speaks = hints(known)
    certain, inferred = set(facts(known.findings)), set(stated(known.findings))
    suspected = _suspected(known)
    best = {cause: whole.get(cause, quarter.get(cause, math.nan)) for cause in Cause}
    rates = max(_clip(best[cause]) for cause in (Cause.LR_TOO_LOW, Cause.LR_TOO_HIGH))
    for gained in (whole, quarter, best):  # another optimizer brings another rate
        if Cause.OPTIMIZER_MISMATCH in gained:
            gained[Cause.OPTIMIZER_MISMATCH] -= rates
    top, early = (
        max((v for v in g.values() if not math.isnan(v)), default=0.0) for g in (best, quarter)
    )
    found: dict[Cause, Features] = {}
    for cause in Cause:
        others = [v for c, v in best.items() if c != cause and not math.isnan(v)]
        hint, own = _clip(speaks.get(cause, math.nan)), best[cause]
        asked = not math.isnan(own)
        simple = asked and own > 0.02 and _simple(cause, quarter, best)
        if asked:
            hint *= 0.3 + 0.7 * ramp(own, 0.0, 0.1)
        if simple and cause in GENERAL:
            hint *= 0.3
        values = (
            1.0 if cause in certain else 0.5 * float(cause in inferred),
            hint,
            suspected.get(cause, 0.0),
            _clip(whole.get(cause, math.nan)),
            _clip(quarter.get(cause, math.nan)),
            float(asked and own > 0.02 and own >= top),
            _clip(quarter.get(cause, 0.0) / early) if early > 0.05 else 0.0,
            _clip(own - max([0.0, *others]), -1.0, 1.0) if asked and own > 0.02 else 0.0,
            float(asked and own <= 0.02),
            hint * _clip(own),
            float(not asked and cause in speaks and hint == 0.0),
            float(simple),
        )
        proper = dict.fromkeys(PROPER, 0.0)
        if cause in HINTS:
            proper |= {f"hint of {cause}": 0.5 * hint, f"gain of {cause}": 0.5 * _clip(own)}
        shared = dict(zip(OF_CAUSE, values, strict=True))
        found[cause] = MappingProxyType({**shared, **proper})
    return found


SIMPLEST = (
    Cause.UNSCALED_INPUTS, Cause.UNSCALED_TARGETS, Cause.WRONG_LOSS_OR_OUTPUT,
    Cause.WRONG_LAST_LAYER, Cause.TOO_MUCH_REGULARISATION, Cause.BAD_INITIALISATION,
    Cause.LR_TOO_LOW, Cause.LR_TOO_HIGH, Cause.MISSING_CLIPPING, Cause.WARMUP_MISSING,
    Cause.BATCH_TOO_LARGE, Cause.BATCH_TOO_SMALL, Cause.SATURATING_ACTIVATION,
    Cause.MISSING_NORMALISATION, Cause.MISSING_RESIDUAL, Cause.OPTIMIZER_MISMATCH,
)  # fmt: skip
"""Causes by how little their probe changes: what mends one particular fault before what helps
against many, such as a normalisation or another optimizer."""

GENERAL = (Cause.MISSING_NORMALISATION, Cause.MISSING_RESIDUAL)
"""Causes whose probe helps against many faults, and whose hint is what the network looks like."""


def _simple(cause: Cause, *gained: Mapping[Cause, float]) -> bool:
    """Return whether a simpler change gains as much, up to a fifth, after the same share."""
    return any(
        _simpler(cause, gain) >= 0.8 * gain[cause] for gain in gained if gain.get(cause, 0.0) > 0.02
    )


def _simpler(cause: Cause, gain: Mapping[Cause, float]) -> float:
    """Return the largest gain of a simpler change than that of a cause."""
    before = SIMPLEST[: SIMPLEST.index(cause)] if cause in SIMPLEST else ()
    return max((v for c in before if not math.isnan(v := gain.get(c, math.nan))), default=-math.inf)


def _suspected(known: Evidence) -> dict[Cause, float]:
    """Return how strongly the symptoms point to each cause: 1, 1/2, 1/3 by their order."""
    found: dict[Cause, float] = {}
    for symptom in {f.what for f in known.findings if isinstance(f.what, Symptom)}:
        for place, cause in enumerate(SUSPECTS.get(symptom, ())):
            found[cause] = max(found.get(cause, 0.0), 1.0 / (place + 1))
    return found
