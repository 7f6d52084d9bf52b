"""The report on a compressed network."""

from __future__ import annotations

from etude.compression.result import CompressionResult, LayerChange, Stage
from etude.report import words
from etude.report.document import (
    Bullets,
    DataTable,
    Fact,
    Report,
    Section,
    TableColumn,
    TableRow,
    Tone,
)
from etude.report.registry import presents
from etude.tasks.task import Task


@presents(CompressionResult)
def of_compression(found: CompressionResult, task: Task | None = None) -> Report:
    """Return the report on a compressed network."""
    sections = [
        Section("Before and after", (_table(found),)),
        Section("Layers", (_layers(found),)),
    ]
    if found.tuning is not None:
        sections.insert(1, Section("Fine-tuning", (_tuned(found), *_tried(found))))
    if found.notes:
        sections.append(Section("Notes", (Bullets(tuple((note, "") for note in found.notes)),)))
    return Report(
        kind="Compressed model",
        subject=found.task,
        title=f"{found.task}: {found.method} makes it {found.smaller:.2f}× smaller",
        lede=_lede(found),
        facts=tuple(_facts(found)),
        sections=tuple(sections),
    )


def _lede(found: CompressionResult) -> str:
    text = (
        f"{found.method}: {words.count(found.before.bytes)} bytes become "
        f"{words.count(found.after.bytes)}; a forward pass takes {found.latency.ratio:.2f} times "
        "as long as before."
    )
    if found.metric is None:
        return text
    before, after = found.before.evaluation.metric, found.after.evaluation.metric
    return (
        f"{text} {found.metric.capitalize()} was {words.metric(found.metric, before)} and is "
        f"{words.metric(found.metric, after)}."
    )


def _facts(found: CompressionResult) -> list[Fact]:
    facts = [
        Fact(
            "Size",
            f"{found.smaller:.2f}× smaller",
            f"as a file; without its header {_ratio(found):.2f}×",
            Tone.GOOD if found.smaller > 1 else Tone.WARN,
        ),
        Fact("Weights gone", words.percent(found.sparsity), "of the matrices of all layers"),
        Fact("Latency", f"× {found.latency.ratio:.2f}", _how(found)),
    ]
    if found.metric is not None:
        facts.append(_score(found, found.metric))
    loss, before = found.after.evaluation.loss, found.before.evaluation.loss
    facts.append(Fact("Validation loss", words.number(loss), f"before {words.number(before)}"))
    return facts


def _ratio(found: CompressionResult) -> float:
    return found.before.tensor_bytes / max(1, found.after.tensor_bytes)


def _score(found: CompressionResult, name: str) -> Fact:
    before, after = found.before.evaluation.metric, found.after.evaluation.metric
    lost = found.lost
    tone = Tone.PLAIN if lost is None else Tone.GOOD if lost <= 0 else Tone.PLAIN
    return Fact(
        f"Validation {name}",
        words.metric(name, after),
        f"before {words.metric(name, before)}",
        tone,
    )


def _how(found: CompressionResult) -> str:
    one = found.latency
    return (
        f"median ratio of {one.passes} neighbouring forward passes, each of "
        f"{words.plural(one.samples, 'sample')}, on the {one.device} with "
        f"{words.plural(one.threads, 'thread')}"
    )


def _table(found: CompressionResult) -> DataTable:
    rows = [_row(found, "before", found.before, found.latency.before)]
    if found.tuning is not None:
        rows.append(_row(found, "compressed", found.compressed, None))
    name = "after fine-tuning" if found.tuning is not None and found.tuning.used else "after"
    rows.append(_row(found, name, found.after, found.latency.after))
    return DataTable(
        (
            TableColumn("network", whole=True),
            TableColumn("bytes", number=True),
            TableColumn("smaller", number=True),
            TableColumn("latency", number=True),
            TableColumn(found.metric or "metric", number=True),
            TableColumn("loss", number=True),
        ),
        tuple(rows),
        f"Bytes: of the weights as a file. Latency: the median of {found.latency.passes} forward "
        "passes, of both networks in turns. Metric and loss: on the validation data.",
    )


def _row(found: CompressionResult, name: str, stage: Stage, seconds: float | None) -> TableRow:
    metric = stage.evaluation.metric
    return TableRow(
        (
            name,
            words.count(stage.bytes),
            f"{found.before.bytes / stage.bytes:.2f}×",
            "–" if seconds is None else _milliseconds(seconds),
            "–" if found.metric is None else words.metric(found.metric, metric),
            words.number(stage.evaluation.loss),
        )
    )


def _milliseconds(seconds: float) -> str:
    """Return a short time.

    >>> _milliseconds(0.00123)
    '1.23 ms'
    """
    return f"{words.number(1_000 * seconds, 3)} ms"


def _tuned(found: CompressionResult) -> str:
    tuning = found.tuning
    assert tuning is not None
    how = {
        "rewound": "the run's own schedule, rewound",
        "anew": "the run's own schedule from its start",
        "constant": "a constant rate",
    }[tuning.how]
    kept = (
        ""
        if tuning.used
        else " It was no better than no fine-tuning, so that the network is the one before it."
    )
    return (
        f"The tuner chose {how}, at a peak of {words.rate(tuning.lr)}, for "
        f"{words.plural(tuning.updates, 'update')}; the search cost "
        f"{words.runs(tuning.cost)} of that length.{kept}"
    )


def _tried(found: CompressionResult) -> tuple[DataTable, ...]:
    tuning = found.tuning
    assert tuning is not None
    if not tuning.tried:
        return ()
    rows = tuple(
        TableRow((schedule, words.number(lr, 3), words.number(score)))
        for schedule, lr, score in tuning.tried
    )
    score = found.goal.name if not found.goal.maximize else f"-{found.goal.name}"
    return (
        DataTable(
            (
                TableColumn("schedule", whole=True),
                TableColumn("rate", number=True),
                TableColumn(score, number=True),
            ),
            rows,
            "Schedules and rates that were compared, where each was last evaluated: the best went "
            "on furthest.",
        ),
    )


def _layers(found: CompressionResult) -> DataTable:
    return DataTable(
        (
            TableColumn("layer", whole=True),
            TableColumn("kind", minor=True),
            TableColumn("weights", number=True),
            TableColumn("kept", number=True),
            TableColumn("gone", number=True),
            TableColumn("what was done"),
        ),
        tuple(_layer(one) for one in found.layers),
        "Weights: the numbers in a layer's matrices, without biases. Gone: the share of them that "
        "is zero, or was removed.",
    )


def _layer(one: LayerChange) -> TableRow:
    return TableRow(
        (
            one.name or "(the model)",
            one.kind,
            words.count(one.weights),
            words.count(one.kept),
            words.percent(one.sparsity),
            one.treatment,
        ),
        Tone.SOFT if one.treatment == "left whole" else Tone.PLAIN,
        bar=one.sparsity,
    )
