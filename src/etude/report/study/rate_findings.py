"""Findings on the rate: sensitivity, stable range, edge, how the optimum moves, contrasts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

from etude.report import words
from etude.report.study.choose import best_schedules
from etude.report.study.finding_text import StudyFinding, all_of, counted
from etude.report.study.naming import (
    name_of,
    rates_text,
    share_text,
    shared_name,
    value_text,
    without_option,
)
from etude.report.study.size_curves import rules_of
from etude.studies.analysis.groups import Contrast, SizeDrift, contrasts, drifts, value_of
from etude.studies.analysis.intervals import Interval
from etude.studies.analysis.rate_sensitivity import missed_share
from etude.studies.summary import RateSummary

MOST_SAID = 6
"""The largest number of sentences of one sort; the table and the figures have the rest."""


def _by_optimizer(
    summaries: Sequence[RateSummary],
) -> dict[tuple[str, Hashable], list[RateSummary]]:
    """Return the kinds at their best schedule, by optimizer and the rates that were tried."""
    groups: dict[tuple[str, Hashable], list[RateSummary]] = defaultdict(list)
    for one in best_schedules(summaries):
        if one.lrs:
            groups[one.kind.optimizer, one.lrs].append(one)
    return groups


def sensitivity_findings(
    summaries: Sequence[RateSummary], differing: Sequence[str]
) -> list[StudyFinding]:
    """Return which kind of run is the most sensitive to the rate, and which the least.

    They are compared by the share of the drop of the loss that a rate misses on average, which has
    no units, within one optimizer and one list of rates, each at its best schedule.
    """
    rest = [name for name in differing if name not in ("optimizer", "schedule")]
    found = []
    for (optimizer, _), own in list(_by_optimizer(summaries).items())[:MOST_SAID]:
        known = [
            (s, one)
            for one in own
            if not one.stopped and (s := missed_share(one.table, one.untrained)) is not None
        ]
        if len(known) < 2:
            continue
        (least, low), (most, high) = (
            choose(known, key=lambda pair: pair[0].value) for choose in (min, max)
        )
        text = (
            f"With {optimizer}, at {counted(len(high.lrs), 'rate')} from "
            f"{rates_text(high.lrs[0], high.lrs[-1])}, a rate misses on average "
            f"{share_text(most)} of the drop of the loss for {name_of(high.kind, rest)}, the most "
            f"of {counted(len(known), 'kind')}, and {share_text(least)} for "
            f"{name_of(low.kind, rest)}, the least."
        )
        if not _apart(least, most):
            text += " Their intervals do not tell them apart."
        trials = [n for _, one in known for n in one.trials]
        found.append(StudyFinding.of(text, trials))
    return found


def _apart(low: Interval, high: Interval) -> bool:
    return low.known and high.known and low.high < high.low


def range_findings(
    summaries: Sequence[RateSummary], differing: Sequence[str]
) -> list[StudyFinding]:
    """Return which kind of run trains over the widest range of rates, and which over the least."""
    rest = [name for name in differing if name not in ("optimizer", "schedule")]
    found = []
    for (optimizer, _), own in list(_by_optimizer(summaries).items())[:MOST_SAID]:
        known = [one for one in own if one.stable is not None]
        if len(known) < 2:
            continue
        widths = [one.stable.decades for one in known if one.stable is not None]
        least, most = min(widths), max(widths)
        if least == most:
            text = (
                f"With {optimizer}, {all_of(len(known), 'kind')} of run end below the "
                f"untrained loss over equally many decades of rates: {words.number(most, 3)}."
            )
        else:
            narrow, wide = (known[widths.index(width)] for width in (least, most))
            text = (
                f"With {optimizer}, {name_of(wide.kind, rest)} ends below the untrained loss over "
                f"{_range_text(wide)}; {name_of(narrow.kind, rest)} over {_range_text(narrow)}, "
                f"the narrowest of {counted(len(known), 'kind')}."
            )
        found.append(StudyFinding.of(text, (n for one in known for n in one.trials)))
    return found


def _range_text(one: RateSummary) -> str:
    assert one.stable is not None
    found = one.stable
    text = f"{words.number(found.decades, 3)} decades ({rates_text(found.low, found.high)}"
    open_ends = [
        name
        for name, is_open in (("below", found.open_below), ("above", found.open_above))
        if is_open
    ]
    if open_ends:
        text += f"; none was tried {' or '.join(open_ends)}"
    return f"{text})"


def edge_findings(summaries: Sequence[RateSummary], differing: Sequence[str]) -> list[StudyFinding]:
    """Return how the rate at which training breaks compares with that of the curvature."""
    known = [one for one in best_schedules(summaries) if one.edge is not None]
    if not known:
        return []
    above = [one for one in known if one.edge and one.edge.ratio[0] > 1]
    below = [one for one in known if one.edge and one.edge.ratio[1] < 1]
    within = len(known) - len(above) - len(below)
    text = (
        "The rate from which on runs no longer end below the untrained loss, against the one at "
        "which the curvature before training makes a step unstable (2/λ without momentum), of "
        f"{counted(len(known), 'kind')} of run whose both are known: higher in {len(above):,}, "
        f"lower in {len(below):,}, and in {within:,} the rates that were tried are too far apart "
        "to tell."
    )
    ratios = [one.edge.ratio for one in known if one.edge]
    wide = max(range(len(known)), key=lambda i: ratios[i][1])
    low, high = ratios[wide]
    text += (
        f" The largest ratio is that of {name_of(known[wide].kind, differing)}: between "
        f"{words.number(low, 3)} and {words.number(high, 3)}."
    )
    trials = [n for one in known for n in (*one.trials, one.measured) if n is not None]
    return [StudyFinding.of(text, trials)]


def drift_findings(
    summaries: Sequence[RateSummary], differing: Sequence[str]
) -> list[StudyFinding]:
    """Return how the best rate moves with each size, and where that cannot be told."""
    found = []
    by_size: dict[str, list[SizeDrift]] = defaultdict(list)
    for one in drifts(summaries):
        by_size[one.size].append(one)
    for size, own in by_size.items():
        known = [one for one in own if one.drift.known]
        found += [_drift_said(one, differing) for one in known[:MOST_SAID]]
        unknown = [one for one in own if not one.drift.known]
        if unknown:
            text = (
                f"How the best rate moves with the {size} cannot be told in {len(unknown):,} of "
                f"{counted(len(own), 'comparison')}: for {shared_name(unknown[0], differing)}, "
                f"{unknown[0].drift.reason}."
            )
            found.append(StudyFinding.of(text, (n for one in unknown for n in one.trials)))
    return found


def _drift_said(one: SizeDrift, differing: Sequence[str]) -> StudyFinding:
    drift = one.drift
    text = (
        f"{shared_name(one, differing)}: from {one.size} {one.sizes[0]:g} to {one.sizes[-1]:g} the "
        f"best rate goes as {one.size} to the power {words.number(drift.slope, 2)} "
        f"({words.number(drift.low, 2)} to {words.number(drift.high, 2)})"
    )
    rules = {**rules_of(one.size), "no change": 0.0}
    fits = [name for name, slope in rules.items() if drift.allows(slope)]
    fitting = (
        f"compatible with {' and with '.join(fits)}" if fits else "compatible with no rule drawn"
    )
    text += f", which is {fitting}."
    return StudyFinding.of(text, one.trials)


def contrast_findings(
    summaries: Sequence[RateSummary], differing: Sequence[str]
) -> list[StudyFinding]:
    """Return for each value of a part whether the sensitivity differs from that of the first."""
    groups: dict[tuple[str, str, str], list[Contrast]] = defaultdict(list)
    for one in contrasts(summaries):
        if one.sensitivity is not None:
            first, second = (
                value_text(value_of(of.kind, one.part)) for of in (one.first, one.second)
            )
            groups[one.part, first, second].append(one)
    found = []
    for (part, first, second), own in groups.items():
        sure = [one for one in own if one.sure and one.sensitivity is not None]
        if not sure:
            continue
        lower = sum(one.sensitivity.value < 0 for one in sure if one.sensitivity)
        name = part.removeprefix("model.").replace("clip_norm", "clip")
        largest = max(sure, key=lambda one: abs(one.sensitivity.value) if one.sensitivity else 0.0)
        assert largest.sensitivity is not None
        change = largest.sensitivity
        text = (
            f"{name} {second} instead of {first}, all else equal: the sensitivity to the rate is "
            f"lower in {lower:,}, higher in {len(sure) - lower:,}, and cannot be told apart in "
            f"{len(own) - len(sure):,} of {counted(len(own), 'comparison')}. The largest change, "
            f"for {_besides(largest, differing)}: {_signed(change.value)} "
            f"({_signed(change.low)} to {_signed(change.high)})."
        )
        found.append(StudyFinding.of(text, (n for one in own for n in one.trials)))
    return found[: 2 * MOST_SAID]


def _signed(value: float) -> str:
    text = words.number(value, 3)
    return f"+{text}" if value > 0 else text


def _besides(one: Contrast, differing: Sequence[str]) -> str:
    kind = one.second.kind
    if one.part.startswith("model."):
        kind = without_option(kind, one.part.removeprefix("model."))
    return name_of(kind, [name for name in differing if name != one.part])
