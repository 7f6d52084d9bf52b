"""Verify the zoo: every fault harms, every healthy twin learns at a rate that is not far off."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.doctor.case import Case, Edit
from benchmarks.doctor.edits import both, rate
from benchmarks.doctor.keep import digest
from benchmarks.doctor.setup import Setup
from etude import files

TABLE = Path(__file__).parents[1] / "results" / "doctor" / "cases.json"

LEAST_DAMAGE = 0.10
"""Share of what the healthy twin learned that a fault must cost, at every seed."""

LARGEST_SCORE = 0.8
"""Error or loss of a healthy case, the less of both in units of a constant's, at every seed."""

LARGEST_GAIN = 0.05
"""By how much ten times the rate, or a tenth of it, may lower the error of a healthy case."""


@dataclass(frozen=True)
class Verified:
    """What verification measured of a case.

    Attributes:
        cause: What is wrong; empty for a healthy case.
        layer: The module at fault; empty where none is.
        twin: The name of the healthy twin.
        by: By what the damage is measured.
        error: Error on the validation data, 1 being a constant's.
        loss: The same of the loss.
        seconds: How long the run took on one core.
        digest: Of the case's data, weights and numbers: tells a case that has changed since.
        gain: Of a healthy case at seed 0: how much ten times the rate or a tenth of it would
            lower the error, the larger; None where it was not tried.
    """

    cause: str
    layer: str
    twin: str
    by: str
    error: float
    loss: float
    seconds: float
    digest: str
    gain: float | None = None

    def score(self, by: str) -> float:
        """Return the error or the loss by name."""
        return self.loss if by == "loss" else self.error


def measure(case: Case) -> Verified:
    """Train a case, and a healthy one at seed 0 also at other rates."""
    outcome = case.run()
    gain = None
    if not case.cause and case.seed == 0:
        gain = max(outcome.score.error - other_rate(case, factor) for factor in (0.1, 10.0))
    edit = case.edit
    return Verified(
        case.cause, edit.layer if edit else "", case.twin.name, edit.by if edit else "error",
        round(outcome.score.error, 4), round(outcome.score.loss, 4), round(outcome.seconds, 2),
        digest(case), None if gain is None else round(gain, 4),
    )  # fmt: skip


def other_rate(case: Case, factor: float) -> float:
    """Return the error of a healthy case at another rate."""

    def before(setup: Setup) -> Setup:
        return case.edit.apply(setup) if case.edit else setup

    edit = Edit(f"rate times {factor:g}", both(before, rate(factor)))
    return replace(case, edit=edit).run().score.error


def read() -> dict[str, Verified]:
    """Return the stored table; empty where there is none."""
    if not TABLE.exists():
        return {}
    content = json.loads(TABLE.read_text(encoding="utf-8"))
    return {name: Verified(**row) for name, row in content["cases"].items()}


def write(table: dict[str, Verified], names: list[str]) -> None:
    """Write the table, in the order of the names."""
    rows: dict[str, Any] = {}
    for name in names:
        if name in table:
            rows[name] = asdict(table[name])
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    thresholds = {
        "damage, at least": LEAST_DAMAGE,
        "healthy error, at most": LARGEST_SCORE,
        "gain from another rate, at most": LARGEST_GAIN,
    }
    head = json.dumps({"torch": torch.__version__, "thresholds": thresholds}, indent=1)
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
    files.write_text(TABLE, head[:-2] + ',\n "cases": {\n' + lines + "\n }\n}\n")


def damage(table: dict[str, Verified], name: str) -> float:
    """Return the share of what the healthy twin learned that a fault cost."""
    fault, twin = table[name], table[table[name].twin]
    healthy = twin.score(fault.by)
    return (fault.score(fault.by) - healthy) / max(1 - healthy, 1e-3)


def complaints(table: dict[str, Verified], cases: list[Case]) -> Iterator[str]:
    """Yield a line for every case that is not what it says."""
    for case in cases:
        name, row = case.name, table.get(case.name)
        if row is None:
            yield f"{name}: not measured"
        elif row.cause and row.twin in table:
            if (cost := damage(table, name)) < LEAST_DAMAGE:
                yield f"{name}: {row.cause} costs {cost:.3f}, by {row.by}"
        elif not row.cause:
            if min(row.error, row.loss) > LARGEST_SCORE:
                yield f"{name}: healthy, but the error is {row.error:.3f} of a constant's"
            if row.gain is not None and row.gain > LARGEST_GAIN:
                yield f"{name}: another rate lowers the error by {row.gain:.3f}"


def verify(cases: list[Case], every: list[Case], anew: bool = False) -> list[str]:
    """Measure the cases whose row is missing or stale, write the table, and return complaints."""
    table, names = read(), [case.name for case in every]
    for case in cases:
        row = table.get(case.name)
        if not anew and row is not None and row.digest == digest(case):
            edit = case.edit
            table[case.name] = replace(
                row, cause=case.cause, layer=edit.layer if edit else "",
                by=edit.by if edit else "error", twin=case.twin.name,
            )  # fmt: skip
            continue
        try:
            table[case.name] = measure(case)
        except Exception as error:  # noqa: BLE001  (one broken case must not stop the others)
            print(f"{case.name}: failed: {type(error).__name__}: {str(error)[:200]}", flush=True)
            continue
        row = table[case.name]
        told = f"damage {damage(table, case.name):.3f}" if row.cause else f"gain {row.gain}"
        print(f"{case.name}: error {row.error:.3f} loss {row.loss:.3f} {told}", flush=True)
        write(table, names)
    write(table, names)
    return list(complaints(table, cases))
