"""The report on a diagnosis: what was found, the layers, and what the remedies have shown."""

from __future__ import annotations

import numpy as np

from etude.diagnosis.diagnose import TaskDiagnosis
from etude.diagnosis.finding import Cause, Diagnosis, Symptom, Verdict, chance
from etude.diagnosis.health.rate_said import critical_said
from etude.diagnosis.history import History, Quantity
from etude.diagnosis.remedies import Attempt, Repair
from etude.report import pieces, words
from etude.report.document import (
    DataTable,
    Drawing,
    Fact,
    Listing,
    Report,
    Section,
    TableColumn,
    TableRow,
    Tone,
)
from etude.report.figures import layer_readings
from etude.report.registry import presents
from etude.tasks.task import Task

QUANTITIES = (
    (Quantity.GRADIENT_NORM, "gradient"),
    (Quantity.WEIGHT_NORM, "weight"),
    (Quantity.UPDATE_RATIO, "update / weight"),
    (Quantity.DEAD, "dead"),
    (Quantity.SATURATED, "saturated"),
)
"""The columns of the table of layers."""


@presents(Diagnosis)
def of_diagnosis(found: Diagnosis, task: Task | None = None) -> Report:
    """Report what was found."""
    record = found.record if isinstance(found, TaskDiagnosis) else None
    tried = found.repair if isinstance(found, TaskDiagnosis) else None
    subject = task.name if task is not None else "training" if record is None else record.task
    layers = () if found.history is None else layer_sections(found.history, detail=found.healthy)
    critical = "" if found.history is None else critical_said(found.history)
    looked = (*found.seen, *([critical] if critical else []))
    seen = Section("What was looked at", looked, detail=True)
    unseen = Section("What could not be seen", found.unseen, detail=found.healthy)
    return Report(
        kind="Diagnosis",
        subject=subject,
        title=f"{subject}: {verdict_said(found)}",
        lede=_lede(found),
        facts=_facts(found),
        sections=(
            *_judged(found.verdict),
            *(
                [Section("What was found", tuple(map(str, found.findings)))]
                if found.findings
                else []
            ),
            *(() if tried is None else _repair(tried)),
            *layers,
            *([seen] if found.seen else []),
            *([unseen] if found.unseen else []),
            *([] if record is None else [Section("The run", pieces.drawings(record), detail=True)]),
        ),
    )


def _judged(verdict: Verdict | None) -> tuple[Section, ...]:
    """Return what speaks for the cause, the likeliest causes, and how often that was right."""
    if verdict is None or not verdict.faulty:
        return ()
    table = DataTable(
        (TableColumn("cause"), TableColumn("probability", number=True)),
        tuple(
            TableRow((str(cause), chance(probability)), Tone.WARN if number == 0 else Tone.PLAIN)
            for number, (cause, probability) in enumerate(verdict.ranked[:3])
        ),
        verdict.reliability,
    )
    follows = ", ".join(str(one).replace("_", " ") for one in verdict.follows)
    told = [*verdict.evidence, *([f"From it follows what was seen: {follows}."] if follows else [])]
    return (Section("The primary cause", (*told, table)),)


def verdict_said(found: Diagnosis) -> str:
    """Return the result in a few words."""
    if found.healthy:
        return "healthy"
    if found.verdict is not None and found.verdict.faulty:
        one = found.verdict
        if one.cause is None:
            return f"something is wrong ({chance(one.probability)}), I cannot tell what"
        where = f" in {one.layer}" if one.layer is not None else ""
        return f"{str(one.cause).replace('_', ' ')}{where} ({chance(one.probability)})"
    if not found.findings:
        return "cannot tell"
    causes = [one for one in found.findings if isinstance(one.what, Cause)]
    names = [str(one.what).replace("_", " ") for one in causes or found.findings]
    return ", ".join(dict.fromkeys(names))


def _lede(found: Diagnosis) -> str:
    if found.healthy:
        return f"Nothing is wrong in what was looked at. {_reliability(found)}".strip()
    if not found.findings and found.verdict is not None and found.verdict.faulty:
        return "The verdict comes from the numbers and probes of the run; no rule found a fault."
    if not found.findings:
        return " ".join(found.unseen) or "Nothing was looked at."
    text = f"{words.plural(len(found.findings), 'finding')}."
    if any(isinstance(one.what, Symptom) for one in found.findings):
        text += " A symptom is what is seen; it can have several causes."
    return text


def _reliability(found: Diagnosis) -> str:
    return "" if found.verdict is None else found.verdict.reliability


def _facts(found: Diagnosis) -> tuple[Fact, ...]:
    wrong = bool(found.findings) or (found.verdict is not None and found.verdict.faulty)
    tone = Tone.GOOD if found.healthy else Tone.WARN if wrong else Tone.PLAIN
    facts = [Fact("Verdict", verdict_said(found), tone=tone)]
    first = min((one.step for one in found.findings if one.step is not None), default=None)
    if first is not None:
        facts.append(Fact("First seen", f"update {words.count(first)}"))
    if found.history is not None and found.history.updates:
        read = words.share(found.history.samples, found.history.updates)
        facts.append(Fact("Updates", words.count(found.history.updates), f"{read} of them read"))
    if isinstance(found, TaskDiagnosis) and found.repair is not None:
        mended = found.repair.recommended
        facts.append(
            Fact("Remedy", "none beats the unchanged run" if mended is None else mended.name)
        )
    return tuple(facts)


def _repair(tried: Repair) -> tuple[Section, ...]:
    rows = [_attempt(one, tried) for one in (tried.control, *tried.attempts)]
    table = DataTable(
        (
            TableColumn("remedy"),
            TableColumn("share", number=True),
            TableColumn(f"validation {tried.objective}", number=True),
            TableColumn("gain", number=True),
            TableColumn(""),
        ),
        tuple(rows),
        "The share of its run to which each was trained, its validation value there, and the gain "
        "over the unchanged run after the same share: better where it is more than noise. One "
        "remedy was drawn at random.",
    )
    parts: list[str | DataTable | Listing] = [table, *str(tried).split("\n")[:1]]
    if tried.recommended is not None:
        parts.append(Listing("mended-recipe", "The mended recipe", tried.recipe.to_toml(), "toml"))
        if changes := [line for line in tried.recommended.patch.splitlines() if "->" in line]:
            parts.append(Listing("changes", "What changes", "\n".join(changes), "text"))
    left = Section("Remedies that were left out", _left_out(tried.skipped), detail=True)
    return Section("Remedies", tuple(parts)), *([left] if tried.skipped else [])


def _left_out(skipped: tuple[str, ...]) -> tuple[str, ...]:
    """Return a sentence for each reason, with the remedies that it keeps out."""
    reasons: dict[str, list[str]] = {}
    for line in skipped:
        name, _, reason = line.partition(": ")
        reasons.setdefault(reason, []).append(name)
    return tuple(f"{', '.join(names)}: {reason}." for reason, names in reasons.items())


def _attempt(one: Attempt, tried: Repair) -> TableRow:
    value = words.number(tried.value(one)) if not one.diverged else "diverged"
    said = "unchanged" if one is tried.control else ""
    if one is not tried.control:
        said = "better" if one.beats_control else "no better"
    if one.drawn:
        said += ", at random"
    tone = Tone.GOOD if one is tried.recommended else Tone.PLAIN
    gain = "" if one is tried.control else words.number(one.gain, 3)
    return TableRow((one.name, f"{one.share:.0%}", value, gain, said), tone)


def layer_sections(history: History, *, detail: bool) -> tuple[Section, ...]:
    """Return the table and the figure of the layers' readings, if there are any.

    Args:
        history: The readings.
        detail: Whether only the page shows them.
    """
    readings = {quantity: history.of_layers(quantity) for quantity, _ in QUANTITIES}
    shown = [(q, name) for q, name in QUANTITIES if np.isfinite(readings[q]).any()]
    if not shown:
        return ()
    table = DataTable(
        (
            TableColumn("layer"),
            TableColumn("kind", minor=True),
            *(TableColumn(name, number=True) for _, name in shown),
        ),
        tuple(
            TableRow(
                (
                    layer.name,
                    layer.kind,
                    *(_median(readings[q][:, index], q) for q, _ in shown),
                )
            )
            for index, layer in enumerate(history.layers)
        ),
        "Medians over the updates that were read: norms of gradient and weight, norm of the update "
        "over that of the weight, shares of units that are dead or saturated.",
    )
    figure = layer_readings.info(history)
    drawn = (
        [Drawing(layer_readings.caption(figure), lambda theme: layer_readings.draw(figure, theme))]
        if figure
        else []
    )
    return (Section("Layers", (table, *drawn), detail=detail),)


def _median(values: np.ndarray, quantity: Quantity) -> str:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return ""
    middle = float(np.median(finite))
    if quantity in (Quantity.DEAD, Quantity.SATURATED):
        return f"{middle:.0%}"
    return words.number(middle, 3)
