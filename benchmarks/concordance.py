"""How well what is seen early orders rates as their ends do: three kinds of evidence compared.

    python -m benchmarks.concordance

From the oracle's data alone (see `benchmarks.oracle`), nothing is trained. The evidence at a share
of the run is the validation loss of the weights, of their mean since the look before, or after a
cooldown of 1/64 of the run to zero. The results go to benchmarks/results/concordance.md and .json.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import arguments, table
from benchmarks.oracle import BRANCH, BRANCHES
from benchmarks.regret import GROUPS
from benchmarks.table import Table

RESULTS = Path(__file__).parent / "results"
KINDS = ("loss", "mean of weights", "cooled")
SHARES = {1 / 16: "T/16", 1 / 8: "T/8", 1 / 4: "T/4", 1 / 2: "T/2", 3 / 4: "3T/4"}
WITHIN = 0.9
"""Decades from the optimum within which pairs are compared: farther off any evidence will do."""

LADDERS: dict[float, tuple[tuple[float, int], ...]] = {
    1.25: ((1 / 8, 3),),
    1.5: ((1 / 8, 4), (1 / 4, 2)),
    2.0: ((1 / 8, 5), (1 / 4, 3), (1 / 2, 2)),
    3.0: ((1 / 4, 5), (1 / 2, 3), (3 / 4, 2)),
}
"""Plain ladders by budget: so many rates, 0.4 decades apart, to such a share; the best finishes."""

OFFSETS = (-1, 0, 1)
"""Grid steps by which the first rates are moved, so that a ladder is tried thrice."""


def evidence(one: Table, kind: str, share: float) -> np.ndarray | None:
    """Return what is seen at a share, by (seed, rate); None where it was not taken."""
    if kind == "cooled":
        return one.cooled[:, :, BRANCHES.index(share)] if share in BRANCHES else None
    return (one.losses if kind == "loss" else one.means)[:, :, one.look(share)]


def agreement(one: Table, seen: np.ndarray) -> list[float]:
    """Return, by seed, the share of pairs near the optimum that are ordered as at the end."""
    logs = np.log10(one.rates)
    near = np.flatnonzero(np.abs(logs - logs[one.best]) <= WITHIN + 1e-9)
    found = []
    for early, end in zip(seen, one.final, strict=True):
        pairs = [(a, b) for a, b in itertools.combinations(near, 2) if end[a] != end[b]]
        same = [float((early[a] < early[b]) == (end[a] < end[b])) for a, b in pairs]
        found.append(statistics.fmean(same))
    return found


def missed(one: Table, seen: np.ndarray) -> list[float]:
    """Return, by seed, the regret of finishing the rate that looks best over the whole grid."""
    return [
        one.regret(float(end[early.argmin()])) for early, end in zip(seen, one.final, strict=True)
    ]


def ladder(one: Table, kind: str, budget: float) -> list[float]:
    """Return the regrets of a plain ladder, by seed and offset.

    Cooled looks are taken where there are branches, at three quarters the loss itself; their own
    cost is not counted, which favours them.
    """
    centre = one.nearest(10 ** table.start(one.task)[0])
    last = len(one.rates) - 1
    found = []
    for seed, offset in itertools.product(range(len(one.untrained)), OFFSETS):
        count = LADDERS[budget][0][1]
        places = (centre + offset + 2 * i - (count - 1) for i in range(count))
        field = sorted({min(last, max(0, place)) for place in places})
        keeps = [*(keep for _, keep in LADDERS[budget][1:]), 1]
        for (share, _), keep in zip(LADDERS[budget], keeps, strict=True):
            seen = evidence(one, kind, share)
            row = (one.losses[:, :, one.look(share)] if seen is None else seen)[seed]
            field = [field[i] for i in np.argsort(row[field], kind="stable")[:keep]]
        found.append(one.regret(float(one.final[seed, field[0]])))
    return found


@dataclass(frozen=True)
class Cell:
    """One kind of evidence at one place, over a group of tasks.

    Attributes:
        group: Of tasks.
        kind: Of evidence.
        place: The share of the run, or the ladder's budget.
        agreement: Mean share of pairs ordered as at the end; None for a ladder.
        regret: Mean.
    """

    group: str
    kind: str
    place: float
    agreement: float | None
    regret: float


def cells(tasks: Sequence[str]) -> list[Cell]:
    """Return every kind of evidence at every place, for every group of tasks and for all."""
    groups: dict[str, Callable[[str], bool]] = {"All": lambda _: True, **GROUPS}
    found = []
    for group, inside in groups.items():
        tables = [table.load(task) for task in tasks if inside(task)]
        for kind in KINDS if tables else ():
            for share in SHARES:
                looks = [(one, evidence(one, kind, share)) for one in tables]
                taken = [(one, seen) for one, seen in looks if seen is not None]
                if taken:
                    agree = _mean(agreement(one, seen) for one, seen in taken)
                    regret = _mean(missed(one, seen) for one, seen in taken)
                    found.append(Cell(group, kind, share, agree, regret))
            for budget in LADDERS:
                regret = _mean(ladder(one, kind, budget) for one in tables)
                found.append(Cell(group, f"ladder, {kind}", budget, None, regret))
    return found


def _mean(values: Iterable[Sequence[float]]) -> float:
    return statistics.fmean(itertools.chain.from_iterable(values))


def _row(found: Sequence[Cell], kind: str, places: Iterable[float], name: str) -> str:
    by_place = {cell.place: cell for cell in found if cell.kind == kind}
    texts = []
    for place in places:
        value = getattr(by_place[place], name) if place in by_place else math.nan
        texts.append(f"{value:.1%}" if math.isfinite(value) else "")
    return f"| {kind.removeprefix('ladder, ')} | " + " | ".join(texts) + " |"


def section(group: str, found: Sequence[Cell]) -> list[str]:
    """Return a group's three tables."""
    shares = "| evidence | " + " | ".join(SHARES.values()) + " |"
    budgets = "| evidence | " + " | ".join(f"{b:g} runs" for b in LADDERS) + " |"
    lines = ["", f"## {group}", "", f"Pairs within {WITHIN} decades ordered as at the end:", ""]
    lines += [shares, "|---|" + "---:|" * len(SHARES)]
    lines += [_row(found, kind, SHARES, "agreement") for kind in KINDS]
    lines += ["", "Mean regret of finishing the rate that looks best in the whole grid:", ""]
    lines += [shares, "|---|" + "---:|" * len(SHARES)]
    lines += [_row(found, kind, SHARES, "regret") for kind in KINDS]
    lines += ["", "Mean regret of a plain ladder:", ""]
    lines += [budgets, "|---|" + "---:|" * len(LADDERS)]
    return lines + [_row(found, f"ladder, {kind}", LADDERS, "regret") for kind in KINDS]


def verdict(found: Sequence[Cell]) -> list[str]:
    """Return what the other kinds gain over the loss itself, in means over places and all tasks."""
    whole = {(cell.kind, cell.place): cell for cell in found if cell.group == "All"}
    lines = ["", "Against the loss itself, over all tasks, in the mean over the places:", ""]
    for kind in KINDS[1:]:
        pairs = [(whole["loss", p], cell) for (k, p), cell in whole.items() if k == kind]
        agree = statistics.fmean((b.agreement or 0) - (a.agreement or 0) for a, b in pairs)
        picked = statistics.fmean(b.regret - a.regret for a, b in pairs)
        climbed = statistics.fmean(
            whole[f"ladder, {kind}", b].regret - whole["ladder, loss", b].regret for b in LADDERS
        )
        lines.append(
            f"- {kind}: {100 * agree:+.1f} points of pairs ordered rightly, "
            f"{100 * picked:+.1f} points of regret in the whole grid, "
            f"{100 * climbed:+.1f} on the ladders."
        )
    return lines


def main() -> None:
    """Read the data, print, and write the results."""
    tasks = table.known()
    found = cells(tasks)
    lines = [
        "# What is seen early, and the end",
        "",
        f"{len(tasks)} tasks × 25 rates × 3 seeds of the oracle's data; written by "
        "`python -m benchmarks.concordance`. The evidence at a share of the run is the validation "
        "loss of the weights, of their mean since the look before (1/16 of the run, 1/32 at the "
        f"first two), or after a cooldown of T/{1 / BRANCH:.0f}, linear to zero, whose cost is "
        "not counted here. Orders are of one seed. Regret as in `regret.md`. The plain ladders "
        "neither add rates beyond an edge nor foretell overfitting, unlike `etude tune`: they "
        "compare the evidence alone.",
    ]
    lines += verdict(found)
    for group in dict.fromkeys(cell.group for cell in found):
        lines += section(group, [cell for cell in found if cell.group == group])
    print("\n".join(lines))
    (RESULTS / "concordance.md").write_text("\n".join(lines) + "\n")
    content = {"tasks": tasks, "cells": [vars(cell) for cell in found]}
    (RESULTS / "concordance.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    arguments.read(__doc__)
    main()
