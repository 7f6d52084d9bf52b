"""The report on a study: how the loss depends on the rate, for each kind of run."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import fields

from etude.report import stability_map, study_curves, words
from etude.report.document import (
    DataTable,
    Drawing,
    Fact,
    Report,
    Section,
    TableColumn,
    TableRow,
    Tone,
)
from etude.report.registry import presents
from etude.report.stability_map import MapRow
from etude.report.study_curves import StudyCurve
from etude.studies.result import RateSummary, RunKind, StudyResult
from etude.tasks.task import Task

HEADS = {
    "task": "task",
    "options": "model",
    "optimizer": "optimizer",
    "schedule": "schedule",
    "batch_size": "batch",
    "clip_norm": "clip",
    "steps": "updates",
    "recipe": "recipe",
}
"""The heading of each part of a kind."""


@presents(StudyResult)
def of_study(found: StudyResult, task: Task | None = None) -> Report:
    """Return the report on a study."""
    summaries = found.summaries()
    differing = differing_fields([one.kind for one in summaries])
    kinds = words.plural(len(summaries), "kind") + " of run"
    return Report(
        kind="Study of the learning rate",
        subject=found.name,
        title=f"{found.name}: {kinds} over {words.plural(len(_rates(summaries)), 'rate')}",
        lede=_lede(found, summaries, differing),
        notice=_notice(found),
        facts=_facts(found),
        sections=(
            Section("Each kind of run", (_table(summaries, differing),)),
            Section("Where training works", (_map(summaries, differing),)),
            Section("Loss against rate", tuple(_curves(summaries, differing))),
        ),
    )


def differing_fields(kinds: Sequence[RunKind]) -> tuple[str, ...]:
    """Return the parts of the kinds that are not the same everywhere; 'task' always.

    >>> one = RunKind("a", "", "sgd", "cosine()", 64, None, 10)
    >>> differing_fields([one])
    ('task',)
    """
    names = [field.name for field in fields(RunKind)]
    return tuple(
        name for name in names if name == "task" or len({getattr(one, name) for one in kinds}) > 1
    )


def name_of(kind: RunKind, differing: Sequence[str]) -> str:
    """Return a kind as text: the parts that differ within the study."""
    return ", ".join(text for name in differing if (text := _cell(kind, name)) != "–")


def _cell(kind: RunKind, name: str) -> str:
    value = getattr(kind, name)
    if value in (None, ""):
        return "–"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _lede(found: StudyResult, summaries: Sequence[RateSummary], differing: Sequence[str]) -> str:
    """Return the sentences of what was found; each is computed from the trials."""
    seeds = {row.seed for row in found.rows}
    told = [
        f"{found.done:,} of {words.plural(len(found.rows), 'trial')} done, over "
        f"{words.plural(len(seeds), 'seed')}."
    ]
    for task, best in found.best().items():
        others = [one for one in summaries if one.kind.task == task]
        assert best.optimum is not None
        what = name_of(best.kind, [name for name in differing if name != "task"])
        kind = f" with {what}" if what else ""
        of = f" of {len(others)} kinds of run" if len(others) > 1 else ""
        told.append(
            f"{task}: the least mean loss{of}, {words.number(best.optimum.loss)}, is at a rate of "
            f"{words.rate(best.optimum.lr)}{kind}."
        )
    return " ".join(told)


def _notice(found: StudyResult) -> str:
    failed = [row for row in found.rows if row.error]
    edge = [
        one for one in found.summaries() if one.optimum and one.optimum.at_edge and len(one.lrs) > 1
    ]
    told = []
    if failed:
        told.append(
            f"{words.plural(len(failed), 'trial')} failed; the first error: {failed[0].error}."
        )
    if edge:
        told.append(
            f"In {words.plural(len(edge), 'kind')} of run the best rate is at the end of the range "
            "that was tried: a better one may lie outside."
        )
    return " ".join(told)


def _facts(found: StudyResult) -> tuple[Fact, ...]:
    done = [row for row in found.rows if row.diverged is not None]
    broken = sum(bool(row.diverged) for row in done)
    waiting = len(found.rows) - found.done - sum(bool(row.error) for row in found.rows)
    facts = [Fact("Trials done", words.count(found.done), f"of {words.count(len(found.rows))}")]
    if waiting:
        facts.append(Fact("Not done", words.count(waiting), "resume the study", Tone.WARN))
    if done:
        facts.append(Fact("Diverged", words.percent(broken / len(done)), "of the trials done"))
    return tuple(facts)


def _table(summaries: Sequence[RateSummary], differing: Sequence[str]) -> DataTable:
    numbers = ("best rate", "interval", "loss", "sensitivity", "decades", "diverged")
    return DataTable(
        (
            *(TableColumn(HEADS[name], whole=True) for name in differing),
            *(TableColumn(name, number=True) for name in numbers),
        ),
        tuple(_row(one, differing) for one in summaries),
        "The rate with the least mean loss (* at the end of the range), its 90% interval over "
        "seeds drawn again, and that loss. Sensitivity: what a rate of the range costs on average, "
        "in units of the loss (Wortsman et al., arXiv 2309.14322). Decades: the width of the range "
        "of rates that end below the untrained loss. Diverged: of all runs.",
    )


def _row(one: RateSummary, differing: Sequence[str]) -> TableRow:
    cells = [_cell(one.kind, name) for name in differing]
    best = one.optimum
    if best is None:
        return TableRow((*cells, *(["–"] * 5), words.percent(one.diverged)), Tone.SOFT)
    return TableRow(
        (
            *cells,
            words.rate(best.lr) + (" *" if best.at_edge and len(one.lrs) > 1 else ""),
            words.rate(best.low)
            if best.low == best.high
            else f"{words.rate(best.low)} to {words.rate(best.high)}",
            words.number(best.loss),
            words.number(one.sensitivity, 3),
            words.number(one.stable_decades, 2),
            words.percent(one.diverged),
        )
    )


def _rates(summaries: Sequence[RateSummary]) -> set[float]:
    return {lr for one in summaries for lr in one.lrs}


def _map(summaries: Sequence[RateSummary], differing: Sequence[str]) -> Drawing:
    rows = tuple(
        MapRow(
            name_of(one.kind, differing),
            one.lrs,
            one.losses,
            one.untrained,
            None if one.optimum is None else one.optimum.lr,
        )
        for one in summaries
    )
    return Drawing(stability_map.caption(), lambda theme: stability_map.draw(rows, theme))


def _curves(summaries: Sequence[RateSummary], differing: Sequence[str]) -> list[Drawing | str]:
    parts: list[Drawing | str] = []
    by_task: dict[str, list[RateSummary]] = defaultdict(list)
    for one in summaries:
        by_task[one.kind.task].append(one)
    rest = [name for name in differing if name != "task"]
    for task, found in by_task.items():
        lines = tuple(
            StudyCurve(
                name_of(one.kind, rest) or task, one.lrs, one.lowest, one.losses, one.highest
            )
            for one in found
        )
        starts = [one.untrained for one in found if math.isfinite(one.untrained)]
        start = sum(starts) / len(starts) if starts else math.nan
        if len(by_task) > 1:
            parts.append(task)
        parts.append(_drawing(lines, start))
    return parts


def _drawing(lines: tuple[StudyCurve, ...], untrained: float) -> Drawing:
    return Drawing(study_curves.caption(), lambda theme: study_curves.draw(lines, untrained, theme))
