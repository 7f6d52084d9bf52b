"""Score diagnosers on the zoo: what they find, what they flag wrongly, which cause and layer."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks import doctor
from benchmarks.doctor.case import Case
from benchmarks.doctor.diagnoser import Diagnoser, Verdict
from benchmarks.doctor.keep import digest
from etude import files

FOLDER = Path(__file__).parents[1] / "results" / "doctor"

DRAWS = 2000
"""Draws of the bootstrap over programs."""


@dataclass(frozen=True)
class Row:
    """A verdict on one case, beside what is true of it.

    Attributes:
        case: The case's name.
        program: Its program.
        cause: What is wrong; empty for a healthy case.
        layer: The module at fault; empty where none is.
        updates: Updates of the run.
        verdict: What the diagnoser said.
        digest: Of the case: tells a verdict on a case that has changed since.
    """

    case: str
    program: str
    cause: str
    layer: str
    updates: int
    verdict: Verdict
    digest: str = ""

    @property
    def found(self) -> bool:
        """Whether anything was said."""
        return self.verdict.faulty

    def among(self, count: int) -> bool:
        """Whether the true cause is among the first few that were named."""
        return self.cause in self.verdict.causes[:count]

    @property
    def layer_right(self) -> bool:
        """Whether the named layer is the one at fault, holds it or is part of it."""
        named, true = f"{self.verdict.layer}.", f"{self.layer}."
        return bool(self.verdict.layer) and (named.startswith(true) or true.startswith(named))


def judge(diagnoser: Diagnoser, cases: Iterable[Case]) -> list[Row]:
    """Run a diagnoser over cases."""
    return [judged(diagnoser, case, digest(case)) for case in cases]


def judged(diagnoser: Diagnoser, case: Case, told: str) -> Row:
    """Return what a diagnoser says of a case with a digest."""
    layer = case.edit.layer if case.edit else ""
    steps, verdict = case.setup().steps, diagnoser.diagnose(case)
    return Row(case.name, case.program.name, case.cause, layer, steps, verdict, told)


def go_on(diagnosers: Sequence[Diagnoser], cases: Iterable[Case]) -> dict[str, list[Row]]:
    """Run diagnosers that do not change over the cases whose verdict is missing or stale.

    Each verdict is written when it is made, case after case.
    """
    known = {one.name: {row.case: row for row in stored(one.name)} for one in diagnosers}
    found: dict[str, list[Row]] = {one.name: [] for one in diagnosers}
    for case in cases:
        told = digest(case)
        for one in diagnosers:
            row = known[one.name].get(case.name)
            if row is None or row.digest != told:
                row = judged(one, case, told)
                known[one.name][case.name] = row
                keep(one.name, list(known[one.name].values()))
            found[one.name].append(row)
    return found


Measure = Callable[[Sequence[Row]], float]


def share(rows: Sequence[Row], said: Callable[[Row], bool]) -> float:
    """Return the share of rows of which something is true; NaN where there are none."""
    return sum(map(said, rows)) / len(rows) if rows else math.nan


def faulty(rows: Sequence[Row]) -> list[Row]:
    """Return the faulty cases."""
    return [row for row in rows if row.cause]


def detected(rows: Sequence[Row]) -> float:
    """Return the median share of its run after which a fault was first flagged."""
    found = [
        (row.verdict.update + 1) / row.updates
        for row in faulty(rows)
        if row.found and row.verdict.update is not None
    ]
    return median(found) if found else math.nan


MEASURES: dict[str, Measure] = {
    "recall": lambda rows: share(faulty(rows), lambda row: row.found),
    "false alarms": lambda rows: share([r for r in rows if not r.cause], lambda row: row.found),
    "top-1 cause": lambda rows: share(faulty(rows), lambda row: row.among(1)),
    "top-3 cause": lambda rows: share(faulty(rows), lambda row: row.among(3)),
    "layer right": lambda rows: share(
        [row for row in faulty(rows) if row.layer], lambda row: row.layer_right
    ),
    "found after": detected,
}
"""What a table shows. Cause and layer count a fault that was not flagged as wrong; 'found after'
is the median share of the run, over the faults that were flagged."""


def interval(rows: Sequence[Row], measure: Measure) -> tuple[float, float]:
    """Return a 95% interval by the bootstrap over whole programs; NaN where nothing is measured."""
    by_program: dict[str, list[Row]] = {}
    for row in rows:
        by_program.setdefault(row.program, []).append(row)
    names, draw = sorted(by_program), np.random.default_rng(0)
    values = []
    for _ in range(DRAWS):
        chosen = draw.choice(len(names), len(names))
        value = measure([row for place in chosen for row in by_program[names[place]]])
        if not math.isnan(value):
            values.append(value)
    if not values:
        return math.nan, math.nan
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def parts(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of the open and of the held programs."""
    return {
        "open": [row for row in rows if row.program in doctor.OPEN],
        "held": [row for row in rows if row.program in doctor.HELD],
    }


def table(results: dict[str, list[Row]]) -> str:
    """Return a table in Markdown: a line for every diagnoser and part."""
    lines = ["| diagnoser | programs | " + " | ".join(MEASURES) + " |"]
    lines.append("|---" * (len(MEASURES) + 2) + "|")
    for name, rows in results.items():
        for part, some in parts(rows).items():
            if some:
                cells = [cell(some, measure) for measure in MEASURES.values()]
                lines.append(f"| {name} | {part} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def cell(rows: Sequence[Row], measure: Measure) -> str:
    """Return a value with its interval."""
    low, high = interval(rows, measure)
    return f"{measure(rows):.2f} ({low:.2f} to {high:.2f})"


def by_cause(results: dict[str, list[Row]]) -> str:
    """Return a table in Markdown: how many cases of each cause are flagged, and named first."""
    causes = sorted({row.cause for rows in results.values() for row in rows if row.cause})
    lines = ["| cause | cases | " + " | ".join(results) + " |", "|---" * (len(results) + 2) + "|"]
    for cause in causes:
        cells, count = [], 0
        for rows in results.values():
            own = [row for row in rows if row.cause == cause]
            count = len(own)
            cells.append(f"{sum(r.found for r in own)} / {sum(r.among(1) for r in own)}")
        lines.append(f"| `{cause}` | {count} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def keep(name: str, rows: Sequence[Row]) -> None:
    """Write the verdicts of a diagnoser."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(" " + json.dumps(asdict(row)) for row in rows)
    files.write_text(path_of(name), f"[\n{lines}\n]\n")


def stored(name: str) -> list[Row]:
    """Return the verdicts of a diagnoser that were written; none where there is no file."""
    if not path_of(name).exists():
        return []
    rows = json.loads(path_of(name).read_text(encoding="utf-8"))
    for row in rows:
        row["verdict"]["causes"] = tuple(row["verdict"]["causes"])
    return [Row(**{**row, "verdict": Verdict(**row["verdict"])}) for row in rows]


def path_of(name: str) -> Path:
    """Return the file of a diagnoser's verdicts."""
    plain = "".join(letter if letter.isalnum() else " " for letter in name.lower())
    return FOLDER / f"{'_'.join(plain.split())}.json"
