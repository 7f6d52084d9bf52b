"""Repair scored on the zoo: how much of a fault's harm the recommended remedy undoes.

A case with a task and a recipe is trained to its end in four ways, and each network is judged by
the zoo's own measure on the validation data. `undone` is the share of what the fault cost that was
won back; it is 1 for the healthy twin and 0 for the fault. A case counts as repaired from a half
on: from there the mended run is nearer to its healthy twin than to the fault.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

import etude
from benchmarks.doctor.case import Case
from benchmarks.doctor.judge import judged
from benchmarks.doctor.keep import digest
from benchmarks.doctor.verify import Verified
from etude import files
from etude.diagnosis.diagnose import diagnose
from etude.diagnosis.remedies import REMEDIES, Repair, repair
from etude.errors import EtudeError
from etude.randomness import derive_seed

TABLE = Path(__file__).parents[1] / "results" / "doctor" / "repair.json"

REPAIRED = 0.5
"""The share of the harm from which a case counts as repaired."""


@dataclass(frozen=True)
class Mended:
    """What one way of mending a case has ended with.

    Attributes:
        digest: Of the case: tells a result on a case that has changed since.
        remedy: The remedy of the network that was judged; empty where none was recommended.
        error: Error on the validation data, 1 being a constant's.
        loss: The same of the loss.
        text: What was said.
    """

    digest: str
    remedy: str
    error: float
    loss: float
    text: str = ""

    def score(self, by: str) -> float:
        """Return the error or the loss by name."""
        return self.loss if by == "loss" else self.error


Told = tuple[str, nn.Module | None, str]
"""The remedy, the network trained with it, and what was said."""


def unchanged(case: Case) -> Told:
    """Train a case as it is."""
    return "", etude.train(case.task(), case.recipe()).model, ""


def by_chance(case: Case) -> Told:
    """Train a case with a remedy drawn at random from those that apply."""
    order = sorted(REMEDIES)
    random.Random(derive_seed(case.seed, case.name, "remedy")).shuffle(order)
    for name in order:
        try:
            applied = REMEDIES[name].apply(case.task(), case.recipe())
            if applied is not None:
                record = etude.train(applied.task, applied.recipe)
                return name, record.model, applied.patch(case.recipe())
        except EtudeError:
            continue
    return "", None, "no remedy applies"


def by_true_cause(case: Case) -> Told:
    """Try the remedies of the cause that the zoo knows: what a diagnosis could give at best."""
    return recommended(repair(case.task(), case.recipe(), [case.cause], progress=False))


def by_diagnosis(case: Case) -> Told:
    """Let `etude.diagnose` find the cause and try its remedies."""
    found = diagnose(case.task(), case.recipe(), repair=True, progress=False)
    if found.repair is not None:
        return recommended(found.repair)
    # Where a cause is certain nothing was trained: the network is that of the recipe as it is.
    record = found.record or etude.train(case.task(), case.recipe())
    return "", record.model, str(found)


def recommended(found: Repair) -> Told:
    """Return the remedy that a repair recommends, and its network."""
    name = "" if found.recommended is None else found.recommended.name
    return name, found.model, str(found)


WAYS: dict[str, Callable[[Case], Told]] = {
    "unchanged": unchanged,
    "a remedy at random": by_chance,
    "true cause": by_true_cause,
    "as diagnosed": by_diagnosis,
}
"""The ways of mending a case."""

Table = dict[str, dict[str, Mended]]
"""What came of each case, by way."""


def measure(case: Case, way: str) -> Mended:
    """Mend a case in one way and judge the network; a network that is missing gets 10."""
    remedy, model, text = WAYS[way](case)
    setup = case.setup()
    if model is None:
        return Mended(digest(case), remedy, 10.0, 10.0, text)
    score = judged(model, setup, case.program.setup())
    return Mended(digest(case), remedy, round(score.error, 4), round(score.loss, 4), text)


def undone(way: Mended, fault: Verified, twin: Verified) -> float:
    """Return the share of the harm that was undone, by the measure by which the fault harms.

    Scores beyond a constant's count as a constant's: what does not learn at all is not mended by
    doing so less badly.
    """
    found, bad, good = (min(one.score(fault.by), 1.0) for one in (way, fault, twin))
    return (bad - found) / max(bad - good, 1e-3)


def mend(cases: Iterable[Case], ways: Iterable[str], anew: bool = False) -> Table:
    """Mend the cases whose result is missing or stale, and return the whole table.

    Each result is written when it is there.
    """
    table, chosen = read(), list(ways)
    for case in cases:
        told = digest(case)
        rows = table.setdefault(case.name, {})
        for way in chosen:
            if not anew and way in rows and rows[way].digest == told:
                continue
            try:
                rows[way] = measure(case, way)
            except EtudeError as error:
                rows[way] = Mended(told, "", 10.0, 10.0, f"{type(error).__name__}: {error}")
            print(f"{case.name}: {way}: {rows[way].remedy or 'none'}", flush=True)
            write(table)
    return table


def read() -> Table:
    """Return the stored table; empty where there is none."""
    if not TABLE.exists():
        return {}
    content = json.loads(TABLE.read_text(encoding="utf-8"))
    return {
        name: {way: Mended(**row) for way, row in rows.items()} for name, rows in content.items()
    }


def write(table: Table) -> None:
    """Write the table, one line for each way."""
    cases = []
    for name, rows in table.items():
        lines = ",\n".join(f"  {json.dumps(w)}: {json.dumps(asdict(r))}" for w, r in rows.items())
        cases.append(f" {json.dumps(name)}: {{\n{lines}\n }}")
    files.write_text(TABLE, "{\n" + ",\n".join(cases) + "\n}\n")


def drawn(cases: Sequence[Case], count: int) -> list[Case]:
    """Return some cases at random, in random order; a larger count only adds cases at the end."""
    order = list(cases)
    random.Random("etude doctor repair").shuffle(order)
    return order[:count]


def fits(case: Case) -> bool:
    """Return whether a case is a fault that has a task and a recipe.

    What lies in a training loop has none, nor has an optimizer that Etude does not know.
    """
    if not case.cause or case.in_loop:
        return False
    try:
        case.recipe()
    except EtudeError:
        return False
    return True
