"""The report on the edge of stability: the rate that breaks training, and the predicted rate."""

from __future__ import annotations

from etude.measure.edge import Edge
from etude.measure.probe import Probe
from etude.measure.sharpness import Sharpness
from etude.report import words
from etude.report.document import DataTable, Fact, Report, Section, TableColumn, TableRow, Tone
from etude.report.registry import presents
from etude.tasks.task import Task


@presents(Edge)
def of_edge(found: Edge, task: Task | None = None) -> Report:
    """Return the report on the rate at which training breaks."""
    sections = [Section("The rates probed", (_probes(found),))]
    if found.sharpness:
        sections.append(Section("Sharpness", (_curvature(found.sharpness),)))
    title = f"{found.task}: no rate tried breaks training"
    if found.cause:
        title = f"{found.task}: every rate breaks at one update, and the rate is not the cause"
    if found.unstable is not None:
        title = f"{found.task}: training breaks at a learning rate of {words.rate(found.unstable)}"
    return Report(
        kind="Edge of stability",
        subject=found.task,
        title=title,
        lede=f"{words.plural(len(found.probes), 'rate')}, {found.steps} of {found.length} updates "
        f"each, {words.runs(found.cost)}. {found.advice()}",
        facts=tuple(_facts(found)),
        sections=tuple(sections),
    )


def _facts(found: Edge) -> list[Fact]:
    limit = Fact("Breaks at", "no rate tried")
    if found.cause:
        limit = Fact("Breaks at", "every rate", "the rate is not the cause", Tone.WARN)
    if found.unstable is not None:
        holds = "" if found.stable is None else f"holds at {words.rate(found.stable)}"
        limit = Fact("Breaks at", words.rate(found.unstable), holds, Tone.WARN)
    return [
        Fact("Learning rate", words.rate(found.lr)),
        limit,
        _predicted(found),
        Fact("Gradient norm", words.number(found.own.norm, 3), "90th percentile at its own rate"),
    ]


def _predicted(found: Edge) -> Fact:
    if found.predicted is None:
        return Fact("Predicted limit", "none", found.unpredicted())
    ratio = ""
    if found.ratio is not None:
        ratio = f"the measured one is {words.number(found.ratio, 2)} times that; "
    note = f"{ratio}rate × sharpness = {found.formula}"
    return Fact("Predicted limit", words.number(found.predicted, 3), note)


def _probes(found: Edge) -> DataTable:
    heads = ("rate", "first loss", "last loss", "rise", "norm")
    return DataTable(
        (*(TableColumn(name, number=True) for name in heads), TableColumn("verdict")),
        tuple(_probe(probe, found.lr) for probe in found.probes),
        "Training loss before the first update, its mean over the last tenth of the updates, its "
        "largest rise, and the 90th percentile of the gradient's norm.",
    )


def _probe(probe: Probe, own: float) -> TableRow:
    verdict, tone = ("own", Tone.GOOD) if probe.lr == own else ("holds", Tone.SOFT)
    if probe.spiked:
        verdict, tone = f"spikes at update {probe.rise_at}", Tone.PLAIN
    if probe.unstable:
        verdict, tone = probe.reason, Tone.WARN
    numbers = (words.number(probe.rise, 3), words.number(probe.norm, 3))
    ends = (words.number(probe.first), words.number(probe.last))
    return TableRow((words.number(probe.lr), *ends, *numbers, verdict), tone)


def _curvature(marks: tuple[Sharpness, ...]) -> DataTable:
    heads = ("update", "sharpness", "preconditioned", "rate", "limit", "products")
    return DataTable(
        (*(TableColumn(name, number=True) for name in heads), TableColumn("remark")),
        tuple(_mark(one) for one in marks),
        f"Largest eigenvalue of the Hessian on {marks[0].samples} training samples, and the rate "
        "above which it predicts that training breaks.",
    )


def _mark(one: Sharpness) -> TableRow:
    remarks = [] if one.converged else ["not converged"]
    if one.method != "second derivatives":
        remarks.append(f"by {one.method}")
    values = (one.value, one.preconditioned, one.rate, one.limit)
    numbers = (words.number(value) for value in values)
    return TableRow((str(one.step), *numbers, str(one.products), ", ".join(remarks)))
