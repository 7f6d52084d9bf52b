"""`judge`: one primary cause with its probability, or that a run is healthy."""

from __future__ import annotations

from etude.diagnosis.finding import Symptom, Verdict
from etude.diagnosis.suspects import SUSPECTS
from etude.diagnosis.verdict.evidence import Evidence
from etude.diagnosis.verdict.model import Bin, Table, odds
from etude.diagnosis.verdict.sentences import layer_of, sentences

NAMED = 0.3
"""The probability from which a cause is named."""

TOLD = 5
"""How many causes are ranked."""


def judge(known: Evidence, table: Table | None = None) -> Verdict | None:
    """Return the verdict on a run; None if nothing was trained.

    A run is faulty if the probability of a fault reaches a bound, which few healthy runs of other
    programs reach. A loop whose task is not known is faulty only where a rule found something: a
    long plateau looks like a fault. The likeliest cause is named from a probability of 0.3 on.

    Args:
        known: What was seen; parts may be missing, which makes the verdict less sure.
        table: The weights; None for those that Etude brings.

    >>> judge(Evidence()) is None
    True
    """
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
    cause, probability = ranked[0]
    if probability < NAMED:
        return Verdict(True, None, found.faulty, ranked)
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
        _reliability(found.reliability, probability),
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
