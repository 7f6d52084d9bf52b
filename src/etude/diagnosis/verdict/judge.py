"""`judge`: one primary cause with its probability, or that a run is healthy."""

from __future__ import annotations

from collections.abc import Sequence

from etude.diagnosis.finding import Cause, Finding, Symptom, Verdict
from etude.diagnosis.suspects import SUSPECTS
from etude.diagnosis.verdict.evidence import Evidence
from etude.diagnosis.verdict.model import Bin, Table, odds
from etude.diagnosis.verdict.sentences import layer_of, sentences

NAMED = 0.3
"""The probability from which a cause is named."""

TOLD = 5
"""How many causes are ranked."""

PROVED = (
    "This is no estimate: it is read from the data or the network, and no run could contradict it."
)
"""What is said of a certain cause in place of how often such verdicts were right."""

FIRST = (
    Cause.BAD_DATA, Cause.LABELS_DO_NOT_MATCH, Cause.WRONG_LAST_LAYER, Cause.WRONG_LOSS_OR_OUTPUT,
)  # fmt: skip
"""The order in which certain causes are named: what is wrong in the data before what is wrong in
the network, since the network may only look wrong because of the data."""


def judge(known: Evidence, table: Table | None = None) -> Verdict | None:
    """Return the verdict on a run; None if nothing was trained and no finding is certain.

    A cause that is certain needs no run and has the probability 1. Otherwise a run is faulty if the
    probability of a fault reaches a bound, which few healthy runs of other programs reach. A loop
    whose task is not known is faulty only where a rule found something: a long plateau looks like a
    fault. The likeliest cause is named from a probability of 0.3 on.

    Args:
        known: What was seen; parts may be missing, which makes the verdict less sure.
        table: The weights; None for those that Etude brings.

    >>> judge(Evidence()) is None
    True
    >>> found = Finding(Cause.BAD_DATA, "The inputs hold NaN.", certain=True)
    >>> print(judge(Evidence((found,))))
    bad_data (certain): The inputs hold NaN.
    """
    if proved := certain(known.findings):
        return _named(known, tuple((cause, 1.0) for cause in proved), PROVED)
    if known.history is None and known.probes is None:
        return None
    found = odds(known, table)
    ranked = found.causes[:TOLD]
    alone = known.measures is None and not known.findings
    if found.faulty < found.bound or alone:
        return Verdict(
            False, None, max(1.0 - found.faulty, 1.0 - found.bound), ranked,
            reliability=_reliability(found.reliability, max(1.0 - found.faulty, 1.0 - found.bound)),
        )  # fmt: skip
    if ranked[0][1] < NAMED:
        return Verdict(True, None, found.faulty, ranked)
    return _named(known, ranked, _reliability(found.reliability, ranked[0][1]))


def certain(findings: Sequence[Finding]) -> tuple[Cause, ...]:
    """Return the causes that are certain, in the order in which they have to be mended.

    >>> one, two = Finding(Cause.BAD_DATA, "", certain=True), Finding(Cause.LR_TOO_LOW, "")
    >>> certain([two, one])
    (<Cause.BAD_DATA: 'bad_data'>,)
    """
    found = {f.what for f in findings if f.certain and isinstance(f.what, Cause)}
    return tuple(sorted(found, key=lambda c: (FIRST.index(c) if c in FIRST else len(FIRST), c)))


def _named(known: Evidence, ranked: tuple[tuple[Cause, float], ...], reliability: str) -> Verdict:
    """Return the verdict that names the first of some causes."""
    cause, probability = ranked[0]
    steps = [f.step for f in known.findings if f.step is not None]
    own = [f.step for f in known.findings if f.step is not None and f.what == cause]
    symptoms = [f.what for f in known.findings if isinstance(f.what, Symptom)]
    return Verdict(
        True,
        cause,
        probability,
        ranked,
        sentences(known, cause),
        tuple(dict.fromkeys(s for s in symptoms if cause in SUSPECTS.get(s, ()))),
        layer_of(known, cause),
        min(own or steps, default=None),
        reliability,
    )


def _reliability(bins: tuple[Bin, ...], probability: float) -> str:
    """Return how often verdicts of such a probability were right."""
    for one in bins:
        if one.low <= probability <= one.high and one.said:
            return (
                f"Of {one.said} verdicts at {one.low:.0%} to {one.high:.0%} on programs that were "
                f"not used to make this table, {one.right} were right."
            )
    return ""
