"""The report on a study: how the loss depends on the rate, for each kind of run."""

from __future__ import annotations

from collections.abc import Sequence

from etude.report import words
from etude.report.document import Bullets, Drawing, Fact, Gallery, Part, Report, Section, Tone
from etude.report.figures import layer_readings
from etude.report.registry import presents
from etude.report.study import (
    learning_curves,
    loss_curves,
    schedule_shapes,
    sensitivity_bars,
    size_curves,
    stability_map,
)
from etude.report.study.choose import MOST_FIGURES
from etude.report.study.content import Named, StudyContent
from etude.report.study.naming import besides_task, rate_text, trials_text
from etude.report.study.table import kinds_table, ranks_table
from etude.studies.result import StudyResult
from etude.studies.summary import RateSummary
from etude.tasks.task import Task

FEW_SEEDS = 5
"""With fewer seeds, intervals by drawing them again are too narrow to be taken by their word."""

CURVES = "learning-curves"
"""The name of the gallery that rows of the table choose from."""


@presents(StudyResult)
def of_study(found: StudyResult, task: Task | None = None) -> Report:
    """Return the report on a study."""
    content = StudyContent(found)
    summaries = content.summaries
    kinds = words.plural(len(summaries), "kind") + " of run"
    sections = (
        Section("Findings", _findings(content)),
        Section("Each kind of run", (_table(content),)),
        Section("Where training works", _map(content)),
        Section("Loss against rate", _losses(content)),
        Section("Sensitivity to the rate", _sensitivity(content)),
        Section("Best rate against size", _sizes(content)),
        Section("Optimizers and schedules", _ranks(content)),
        Section("Learning curves", _curves(content)),
        Section("Gradient of each layer", _layers(content)),
    )
    return Report(
        kind="Study of the learning rate",
        subject=found.name,
        title=f"{found.name}: {kinds} over {words.plural(len(_rates(summaries)), 'rate')}",
        lede=_lede(content),
        notice=_notice(content),
        facts=_facts(found),
        sections=tuple(section for section in sections if section.parts),
    )


def _lede(content: StudyContent) -> str:
    """Return the sentences of what was found; each is computed from the trials."""
    found, seeds = content.result, {row.seed for row in content.result.rows}
    told = [
        f"{found.done:,} of {words.plural(len(found.rows), 'trial')} done, over "
        f"{words.plural(len(seeds), 'seed')}."
    ]
    best = list(found.best().values())
    if len(best) == 1 and best[0].optimum is not None:
        what = besides_task(best[0].kind, content.differing)
        told.append(
            f"The least mean loss, {words.number(best[0].optimum.loss)}, is at a rate of "
            f"{rate_text(best[0].optimum.lr)}{f' with {what}' if what else ''}."
        )
    return " ".join(told)


def _notice(content: StudyContent) -> str:
    failed = [row for row in content.result.rows if row.error]
    edge = [one for one in content.summaries if one.at_edge]
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
    seeds = {row.seed for row in content.result.rows}
    if len(seeds) == 1 and content.summaries:
        told.append("With one seed there are no intervals: differences may be chance.")
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


def _findings(content: StudyContent) -> tuple[Part, ...]:
    told = content.findings
    if not told:
        return ()
    how = (
        "Each sentence is computed from the trials that it names, and holds for them. In brackets: "
        "90% intervals over the seeds."
    )
    seeds = len({row.seed for row in content.result.rows})
    if 1 < seeds < FEW_SEEDS:
        how += f" From {seeds} seeds they are narrower than 90%: take them as a lower bound."
    return how, Bullets(tuple((one.text, trials_text(one.trials)) for one in told))


def _table(content: StudyContent) -> Part:
    choices = {place: (CURVES, at) for at, (place, _, _) in enumerate(content.curves)}
    return kinds_table(content.summaries, content.differing, content.targets, choices)


def _rates(summaries: Sequence[RateSummary]) -> set[float]:
    return {lr for one in summaries for lr in one.lrs}


def _map(content: StudyContent) -> tuple[Part, ...]:
    return _shown(content, "map", "stability-map", "", stability_map.caption() + content.at_best[1])


def _losses(content: StudyContent) -> tuple[Part, ...]:
    lines = [line for _, lines, _ in content.losses for line in lines]
    return _shown(content, "losses", "loss-curves", "Runs", loss_curves.caption(lines))


def _sensitivity(content: StudyContent) -> tuple[Part, ...]:
    caption = sensitivity_bars.caption() + content.at_best[1]
    return _shown(content, "sensitivity", "sensitivity", "", caption)


def _sizes(content: StudyContent) -> tuple[Part, ...]:
    parts: list[Part] = []
    for size in dict.fromkeys(one.size for one in content.drifts):
        first = next(one for one in content.drifts if one.size == size)
        name = f"size-{len(parts)}"
        parts += _shown(content, size, name, f"Runs at each {size}", size_curves.caption(first))
    return tuple(parts)


def _ranks(content: StudyContent) -> tuple[Part, ...]:
    tables = [ranks_table(content.ranks[part]) for part in ("optimizer", "schedule")]
    drawn: tuple[Part, ...] = ()
    if len(content.shapes) > 1:
        drawn = _shown(content, "schedules", "schedules", "", schedule_shapes.caption())
    return (*(table for table in tables if table is not None), *drawn)


def _curves(content: StudyContent) -> tuple[Part, ...]:
    caption = learning_curves.caption() + content.at_best[1]
    return _shown(content, "curves", CURVES, "Kind of run", caption)


def _layers(content: StudyContent) -> tuple[Part, ...]:
    caption = (
        "Runs at the best rate that were watched. Per layer, from the input (pale) to the output "
        "(strong): the norm of its gradient, and the norm of its update over that of its weights. "
        f"The key names the first {layer_readings.NAMED} layers."
    )
    return _shown(content, "layers", "layers", "Kind of run", caption)


def _shown(
    content: StudyContent, kind: str, name: str, label: str, caption: str
) -> tuple[Part, ...]:
    """Return the figures of one kind: a gallery if rows of the table choose from it, or several."""
    drawn: Named = content.drawn.get(kind, [])
    if not drawn:
        return ()
    if len(drawn) == 1 and name != CURVES:
        return (Drawing(caption, drawn[0][1]),)
    if len(drawn) == MOST_FIGURES:
        caption += f" At most {MOST_FIGURES} are shown; the table has all kinds of run."
    return (Gallery(name, label, caption, tuple(drawn)),)
