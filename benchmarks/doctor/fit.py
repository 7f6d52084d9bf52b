"""Fit the weights of a verdict on the open programs: `python -m benchmarks.doctor fit`.

Two logistic regressions by scikit-learn for each source of evidence: whether a run is faulty, and
which cause it is. The second is a conditional logit, fitted to the differences of the true cause's
features from those of every other cause, so that all causes share the weights. Every figure comes
from weights that were fitted without the whole program.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

import etude.diagnosis.verdict
from benchmarks.doctor.case import Case
from benchmarks.doctor.gathered import evidence, has_task
from etude import files
from etude.diagnosis.finding import Cause
from etude.diagnosis.suspects import facts
from etude.diagnosis.verdict.evidence import Evidence
from etude.diagnosis.verdict.features import (
    OF_CAUSE,
    OF_RUN,
    PROPER,
    Features,
    features_of_causes,
    features_of_run,
)
from etude.diagnosis.verdict.model import SOURCES, Bin, Odds, Table, Weights, source_of, weighed

PLACE = Path(etude.diagnosis.verdict.__file__).parent / "table.json"

NAMES = (*OF_CAUSE, *PROPER)
"""The features of a cause."""

SEEDS = (0,)
"""The seeds of the open cases that the table is fitted to.

With three, the bound that lets 2% of healthy cases through is set by five runs of two healthy
variants, each at several seeds, and recall falls from 0.94 to 0.90 on open programs.
"""

WHETHER, WHICH = 3.0, 1.0
"""The inverse strengths of the penalty of weights, as scikit-learn counts it: of whether a run is
faulty, and of which cause it is. What programs that are left out give depends little on them."""

EDGES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0)
"""The bins of probabilities of a reliability table."""

FALSE_ALARMS = 0.02
"""The share of healthy cases that the bound of a fault may let through."""


@dataclass(frozen=True)
class Row:
    """A case and the features of its evidence from one source."""

    case: str
    program: str
    cause: str
    known: Evidence
    run: Features
    causes: dict[Cause, Features]


def rows(cases: Sequence[Case], source: str) -> list[Row]:
    """Return the rows of cases: those of a loop's own have a history alone."""
    found = []
    for case in cases:
        if source == "history" or not has_task(case):
            known = evidence(case, "watch")
        else:
            known = evidence(case, "run" if source == "task" else "probes")
        found.append(
            Row(case.name, case.program.name, case.cause, known, features_of_run(known),
                features_of_causes(known))
        )  # fmt: skip
    return found


def fitted(some: Sequence[Row], bound: float = 0.5) -> Weights:
    """Fit the weights to rows."""
    x = np.array([[row.run[name] for name in OF_RUN] for row in some])
    y = np.array([int(bool(row.cause)) for row in some])
    whether = LogisticRegression(C=WHETHER, max_iter=5000).fit(x, y)
    differences, weights = [], []
    for row in some:
        if not row.cause:
            continue
        true = Cause(row.cause)
        own = np.array([row.causes[true][name] for name in NAMES])
        others = [
            own - np.array([row.causes[c][name] for name in NAMES]) for c in Cause if c != true
        ]
        differences += others
        weights += [1.0] * len(others)
    d = np.array(differences)
    which = LogisticRegression(C=WHICH, max_iter=5000, fit_intercept=False).fit(
        np.concatenate([d, -d]), np.repeat([1, 0], len(d))
    )
    return Weights(
        dict(zip(OF_RUN, map(float, whether.coef_[0]), strict=True)),
        float(whether.intercept_[0]),
        dict(zip(NAMES, map(float, which.coef_[0]), strict=True)),
        bound,
    )


def certainty(some: Sequence[Row]) -> float:
    """Return how often a cause that is a fact was the right one, and one case of two more."""
    told = [facts(row.known.findings) for row in some]
    right = [
        row.cause in map(str, causes) for row, causes in zip(some, told, strict=True) if causes
    ]
    return (sum(right) + 0.5) / (len(right) + 1)


def table_of(weights: dict[str, Weights], certain: float, some: Sequence[Row]) -> Table:
    """Return a table with the digest of the rows that made it."""
    told = hashlib.blake2b(digest_size=8)
    for row in some:
        told.update(repr((row.case, row.cause, sorted(row.run.items()))).encode())
    programs = len({row.program for row in some})
    return Table(weights, certain, len(some), programs, told.hexdigest())


def held_out(every: Mapping[str, Sequence[Row]], source: str) -> list[tuple[Row, Odds]]:
    """Return each row of a source with the odds of weights that were fitted without its program.

    As in the package, evidence is judged by the weights of what it holds: a loop without a task has
    a history alone, and where a cause is a fact no probe was trained.

    Args:
        every: The rows by source.
        source: Whose rows are judged.
    """
    found = []
    for program in dict.fromkeys(row.program for row in every[source]):
        made: dict[str, tuple[Weights, float]] = {}
        for row in every[source]:
            if row.program != program:
                continue
            own = source_of(row.known)
            if own not in made:
                rest = [one for one in every[own] if one.program != program]
                made[own] = fitted(rest), certainty(rest)
            told = facts(row.known.findings)
            found.append((row, weighed(row.run, row.causes, told, *made[own])))
    return found


def bound_of(judged: Sequence[tuple[Row, Odds]]) -> float:
    """Return the smallest probability of a fault that few healthy cases reach."""
    healthy = sorted((one.faulty for row, one in judged if not row.cause), reverse=True)
    allowed = math.floor(FALSE_ALARMS * len(healthy))
    return min(max(0.5, healthy[allowed] + 0.02), 0.98) if healthy else 0.5


def reliability(judged: Sequence[tuple[Row, Odds]], bounds: Mapping[str, float]) -> tuple[Bin, ...]:
    """Return how often verdicts were right by their probability, healthy ones too."""
    said = []
    for row, one in judged:
        if one.faulty >= bounds[source_of(row.known)]:
            said.append((one.causes[0][1], str(one.causes[0][0]) == row.cause))
        else:
            said.append((1.0 - one.faulty, not row.cause))
    found = []
    for low, high in itertools.pairwise(EDGES):
        inside = [right for p, right in said if low <= p < high or (high == 1.0 and p == 1.0)]
        found.append(Bin(low, high, len(inside), sum(inside)))
    return tuple(found)


def figures(judged: Sequence[tuple[Row, Odds]], bounds: Mapping[str, float]) -> dict[str, float]:
    """Return recall, false alarms, and how often the cause is first or among three."""
    sick = [(row, one) for row, one in judged if row.cause]
    well = [(row, one) for row, one in judged if not row.cause]
    flagged, alarms = (
        [(row, one) for row, one in some if one.faulty >= bounds[source_of(row.known)]]
        for some in (sick, well)
    )

    def among(count: int) -> float:
        return sum(row.cause in [str(c) for c, _ in one.causes[:count]] for row, one in flagged)

    return {
        "recall": len(flagged) / max(len(sick), 1),
        "false alarms": len(alarms) / max(len(well), 1),
        "top-1": among(1) / max(len(sick), 1),
        "top-3": among(3) / max(len(sick), 1),
        "faulty": len(sick),
        "healthy": len(well),
    }


def fit(cases: Sequence[Case]) -> Table:
    """Fit all weights and write the table; print what programs that were left out gave."""
    every = {source: rows(cases, source) for source in SOURCES}
    judged = {source: held_out(every, source) for source in SOURCES}
    bounds = {
        source: bound_of([pair for pair in judged[source] if source_of(pair[0].known) == source])
        for source in SOURCES
    }
    weights = {}
    for source in SOURCES:
        told = figures(judged[source], bounds)
        print(source, {k: round(v, 3) for k, v in told.items()}, f"{bounds[source]:.2f}")
        own = [pair for pair in judged[source] if source_of(pair[0].known) == source]
        made = fitted(every[source], bounds[source])
        weights[source] = replace(made, reliability=reliability(own, bounds))
    used = every[SOURCES[-1]]
    table = table_of(weights, certainty(used), used)
    files.write_text(PLACE, text_of(table))
    return table


def text_of(table: Table) -> str:
    """Return a table as JSON, numbers with four digits."""

    def plain(weights: Weights) -> dict[str, Any]:
        return {
            "run": {n: round(v, 4) for n, v in weights.run.items()},
            "intercept": round(weights.intercept, 4),
            "cause": {n: round(v, 4) for n, v in weights.cause.items()},
            "bound": round(weights.bound, 4),
            "reliability": [vars(one) for one in weights.reliability],
        }

    content = {
        "made_from": {
            "cases": table.cases, "programs": table.programs, "digest": table.digest,
        },
        "certain": round(table.certain, 4),
        "weights": {name: plain(one) for name, one in table.weights.items()},
    }  # fmt: skip
    return json.dumps(content, indent=1) + "\n"
