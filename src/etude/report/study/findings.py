"""The findings of a study: sentences that are computed from its trials.

Each states what was seen in these trials, with the 90% interval over seeds where there is one, and
says so where the seeds cannot tell. None generalises beyond the runs of the study.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from etude.record import Record
from etude.report import words
from etude.report.study.finding_text import StudyFinding, all_of, counted
from etude.report.study.naming import (
    besides_task,
    differing_parts,
    interval_text,
    rate_text,
)
from etude.report.study.rate_findings import (
    contrast_findings,
    drift_findings,
    edge_findings,
    range_findings,
    sensitivity_findings,
)
from etude.studies.analysis.groups import RankedPart, rankings
from etude.studies.analysis.progress import targets_of, to_target
from etude.studies.analysis.ranking import ranking
from etude.studies.result import StudyResult
from etude.studies.summary import RateSummary


def findings(result: StudyResult, records: Mapping[int, Record]) -> list[StudyFinding]:
    """Return every sentence that the trials of a study support.

    Args:
        result: The study.
        records: Records of its trials, as many as are at hand: those at the best rates tell how
            many updates a loss took.
    """
    summaries = result.summaries()
    differing = differing_parts([one.kind for one in summaries])
    told: list[Callable[[], list[StudyFinding]]] = [
        lambda: best_findings(summaries, differing, records),
        lambda: diverged_findings(summaries),
        lambda: rank_findings(summaries, "optimizer"),
        lambda: rank_findings(summaries, "schedule"),
        lambda: sensitivity_findings(summaries, differing),
        lambda: range_findings(summaries, differing),
        lambda: edge_findings(summaries, differing),
        lambda: drift_findings(summaries, differing),
        lambda: contrast_findings(summaries, differing),
        lambda: target_findings(summaries, differing, records),
    ]
    return [one for say in told for one in say()]


def best_findings(
    summaries: Sequence[RateSummary],
    differing: Sequence[str],
    records: Mapping[int, Record] = MappingProxyType({}),
) -> list[StudyFinding]:
    """Return for each task which kind of run ends with the least mean loss, and what ties with it.

    Only kinds of the same length and seeds are said to tie.
    """
    found = []
    for task in dict.fromkeys(one.kind.task for one in summaries):
        own = [one for one in summaries if one.kind.task == task and one.best_loss is not None]
        if not own:
            continue
        best = min(own, key=lambda one: one.best_loss.value if one.best_loss else 0.0)
        assert best.optimum is not None
        assert best.best_loss is not None
        what = besides_task(best.kind, differing)
        text = (
            f"{task}: the least mean final loss is {interval_text(best.best_loss)}, at a rate of "
            f"{rate_text(best.optimum.lr)}{f' with {what}' if what else ''}."
        )
        if best.best_metric is not None:
            text += f" Their {_metric(best, records)} is {interval_text(best.best_metric)}."
        if best.at_edge:
            text += " That rate is at the end of the range: a better one may lie outside."
        if len(own) > 1:
            text += f" {_tied(best, own)}"
        found.append(StudyFinding.of(text, (n for one in own for n in one.best_trials)))
    return found


def _metric(one: RateSummary, records: Mapping[int, Record]) -> str:
    """Return the name of a metric, which a Record holds."""
    names = (records[n].metric for n in one.best_trials if n in records)
    return next((name for name in names if name), "metric")


def _tied(best: RateSummary, own: Sequence[RateSummary]) -> str:
    """Say how many others cannot be told apart from the best kind of run, over the seeds."""
    others = len(own) - 1
    if min(len(one.seeds) for one in own) < 2:
        return f"With one seed it cannot be told whether {_of_others(others)} as good."
    ranked = ranking({str(i): one.table[one.best_at or 0] for i, one in enumerate(own)})
    tied = len(ranked.tied)
    if not tied:
        who = {1: "The other kind of run is", 2: "Both others are"}
        return (
            f"{who.get(others, f'All {others:,} others are')} worse in at least 90% of the draws "
            "of the seeds."
        )
    if others == 1:
        return (
            f"Over {len(best.seeds):,} seeds, the other kind of run cannot be told apart from it."
        )
    return (
        f"Of {counted(others, 'other kind')} of run, each at its best rate, {tied:,} cannot be "
        f"told apart from it over {len(best.seeds):,} seeds."
    )


def _of_others(others: int) -> str:
    return "the other kind of run is" if others == 1 else f"one of the {others:,} others is"


def diverged_findings(summaries: Sequence[RateSummary]) -> list[StudyFinding]:
    """Return how many runs diverged, of each optimizer if there are several."""
    runs, broken = Counter[str](), Counter[str]()
    numbers: list[int] = []
    for one in summaries:
        if one.runs:
            runs[one.kind.optimizer] += one.runs
            broken[one.kind.optimizer] += round(one.diverged * one.runs)
            numbers += one.trials
    total = runs.total()
    if not total:
        return []
    text = f"{broken.total():,} of {counted(total, 'run')} diverged"
    if broken.total() and len(runs) > 1:
        parts = (f"{broken[name]:,} of {runs[name]:,} with {name}" for name in runs)
        text += f": {', '.join(parts)}"
    found = [StudyFinding.of(f"{text}.", numbers)]
    stopped = sum(one.stopped for one in summaries)
    if stopped:
        text = (
            f"{stopped:,} of {counted(total, 'run')} were stopped by successive halving: of these "
            "kinds of run the best rate is known, but not what the other rates end with."
        )
        found.append(StudyFinding.of(text, numbers))
    return found


def rank_findings(summaries: Sequence[RateSummary], part: str) -> list[StudyFinding]:
    """Return how often each optimizer or schedule is the best, and how often ranks flip.

    Each stands at its best rate. A comparison is all that is alike otherwise.
    """
    found = rankings(summaries, part)
    if not found:
        return []
    several = "optimizers" if part == "optimizer" else "schedules"
    wins = Counter(one.ranking.rivals[0].name for one in found)
    unsure = sum(bool(one.ranking.tied) for one in found)
    numbers = [n for one in found for n in one.trials]
    comparisons = counted(len(found), "comparison")
    order = ", ".join(f"{name} in {count:,}" for name, count in wins.most_common())
    text = (
        f"Of the {several}, each at its best rate, the least mean final loss has: {order} (of "
        f"{comparisons})."
    )
    if unsure:
        text += f" In {unsure:,} of them the seeds cannot tell the best from at least one other."
    return [StudyFinding.of(text, numbers), *_flips(found, several)]


def _flips(found: Sequence[RankedPart], several: str) -> list[StudyFinding]:
    """Return in how many comparisons the order at half way is another than at the end."""
    known = [one for one in found if one.ranking.rivals[0].half_rank is not None]
    if not known:
        return []
    flipped = [one for one in known if one.ranking.flips]
    sure = [(one, f) for one in flipped for f in one.ranking.flips if f.sure]
    numbers = [n for one in known for n in one.trials]
    comparisons = counted(len(known), "comparison")
    if not flipped:
        text = (
            f"The {several} are in the same order at half way as at the end of the same runs, in "
            f"{'the only comparison' if len(known) == 1 else all_of(len(known), 'comparison')}."
        )
        return [StudyFinding.of(text, numbers)]
    text = (
        f"In {len(flipped):,} of {comparisons} of {several}, at least two are in another order at "
        "half way than at the end of the same runs."
    )
    if sure:
        one, flip = sure[0]
        task = next(iter(one.best.values())).kind.task
        text += (
            f" {counted(len(sure), 'pair')} in the other order in 90% of the draws of the seeds: "
            f"for {task}, {flip.ahead_half} is ahead of {flip.ahead_end} at half way, and behind "
            "at the end."
        )
    else:
        text += " Over these seeds, none of these pairs can be told from chance."
    return [StudyFinding.of(text, numbers)]


def target_findings(
    summaries: Sequence[RateSummary], differing: Sequence[str], records: Mapping[int, Record]
) -> list[StudyFinding]:
    """Return for each task which kind of run reaches 90% of the largest drop first."""
    found = []
    for task, target in targets_of(summaries).items():
        own = [one for one in summaries if one.kind.task == task and one.best_trials]
        known = [t for one in own if (t := to_target(one, target, records)) is not None]
        reached = [t for t in known if t.updates.value < float("inf")]
        if not reached or len(known) < len(own):
            continue
        first = min(reached, key=lambda t: t.updates.value)
        what = besides_task(first.summary.kind, differing)
        text = (
            f"{task}: a loss of {words.number(target)}, after 90% of the largest drop in the study,"
            f" is reached after {interval_text(first.updates, 3)} updates"
            f"{f' with {what}' if what else ''}"
        )
        if len(known) > 1:
            text += f", the fewest of {counted(len(known), 'kind')} of run at their best rates"
        if len(known) > len(reached):
            text += f"; {len(known) - len(reached):,} of them did not reach it at every seed"
        text += f". Runs were evaluated every {first.every:,} updates."
        found.append(StudyFinding.of(text, (n for t in known for n in t.summary.best_trials)))
    return found
