"""The report on how the loss changes with the rate of each layer kind and gate."""

from __future__ import annotations

from etude.measure.effect import Effect
from etude.measure.sensitivity import TOGETHER, Response, Sensitivity
from etude.report import words
from etude.report.document import DataTable, Report, Section, TableColumn, TableRow, Tone
from etude.report.registry import presents
from etude.tasks.task import Task

VERDICTS = {
    Effect.BETTER: ("better", Tone.GOOD),
    Effect.WORSE: ("worse", Tone.PLAIN),
    Effect.DIVERGED: ("diverged", Tone.WARN),
    Effect.NOTHING: ("within its spread", Tone.SOFT),
}


@presents(Sensitivity)
def of_sensitivity(found: Sensitivity, task: Task | None = None) -> Report:
    """Return the report on the effect of another rate for each part."""
    base = sum(found.baseline) / len(found.baseline)
    title = f"{found.task}: keep one rate for all"
    if found.whole is not None:
        title = f"{found.task}: tune the rate first"
    elif found.proposal:
        title = f"{found.task}: separate rates for some parts improve the loss"
    return Report(
        kind="Sensitivity to the rates of the parts",
        subject=found.task,
        title=title,
        lede=f"{words.plural(len(found.seeds), 'seed')}, {found.steps} updates each, "
        f"{words.runs(found.cost)}; validation loss {words.number(base)} at one rate for all. "
        f"{found.advice()}",
        sections=(Section("Part by part", (_responses(found),)),),
    )


def _responses(found: Sensitivity) -> DataTable:
    numbers = (TableColumn(name, number=True) for name in ("rate ×", "gain", "± 95%", "spread"))
    rows = [*found.responses, *([found.trial] if found.trial else [])]
    return DataTable(
        (TableColumn("part"), *numbers, TableColumn("verdict")),
        tuple(map(_row, rows)),
        "The gain in validation loss if the rate of a part is multiplied, its 95% interval, and "
        "the standard deviation over the seeds.",
    )


def _row(one: Response) -> TableRow:
    verdict, tone = VERDICTS[one.verdict]
    factor = "–" if one.part == TOGETHER else f"{one.factor:.3g}"
    numbers = ("–", "–", "–")
    if one.finite:
        numbers = (f"{one.effect:+.3g}", f"{one.margin:.2g}", f"{one.spread:.2g}")
    return TableRow((one.part, factor, *numbers, verdict), tone)
