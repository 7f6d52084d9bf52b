"""What the tuner misses on tasks that it was not shaped on, what each of its parts brings.

    python -m benchmarks.fresh_regret [--held]

The search, parts of it, and Optuna choose on the tables of `benchmarks.evidence`: nothing is
trained. The open half of the tasks was looked at while the search was designed; the held half is
reported with `--held`. Results go to benchmarks/results/fresh_regret.md. Regret and cost are those
of `benchmarks.regret`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import safetensors.numpy

from benchmarks import arguments, evidence, samplers
from benchmarks.fresh import HELD, OPEN, ROWS
from benchmarks.table import Entry, Field, Table
from etude.measure.gradient_scale import scaled
from etude.optimizers.prior import centre_of
from etude.recipe import Recipe
from etude.training.clock import clock_of
from etude.training.run import Run
from etude.trials.curve import Curve, Exposure
from etude.trials.weight_mean import SHARES
from etude.tuning.search import search
from etude.tuning.search.ladder import ladder_for

RESULTS = Path(__file__).parent / "results"
BUDGETS = (1.3, 1.5, 2.0, 3.0, 10.0)


OPENED = (
    "The held half was opened when the search was fixed: at 3 runs it then missed -0.02% / 0.36% "
    "/ 9.5% on ordinary tasks and 0.01% / 0.00% / 3.8% on those that learn late. After that the "
    "rule for overfitting was put back into the ladder, which laws of the tests ask for, and the "
    "budgets from 2 to 2.6875 got their former ladders; neither was chosen by these figures. The "
    "page with both halves was then known when the search below 2.6875 runs was designed anew, on "
    "the open half and the tables of the bundled tasks: at 1.5 the held half had missed 0.36% / "
    "1.74% / 24.4% and 0.28% / 4.61% / 43.2%, at 2 0.23% / 2.40% / 24.4% and 0.02% / 0.48% / 8.3%. "
    "It was opened once more, after that design was fixed. Last, a leader that has turned is no "
    "longer forgotten as it falls behind, which a law of the tests asks for; of six forms of that "
    "rule, all alike on the open half, the simplest was taken. Before it the held half had missed "
    "0.26% / 1.07% / 10.3% and 0.03% / 1.88% / 22.5% at 2, and 0.00% / -0.31% / 9.4% on late "
    "learners at 10, where two results of one task are worse now; the other budgets are the same. "
    "It was opened once more when forecasts had been taken out of the first pause of the ladder "
    "from 2.6875 runs on, a choice made on the open half and the bundled tasks: before, the held "
    "half missed -0.02% / 0.36% / 9.5% and 0.03% / 1.69% / 22.5% at 3, -0.06% / -0.15% / 2.9% and "
    "0.00% / 0.33% / 13.0% at 10."
)
"""What happened after the held half was opened."""


@cache
def table_of(name: str) -> Table:
    """Return the table of a fresh task."""
    kept = safetensors.numpy.load_file(evidence.DATA / f"{name}.safetensors")
    about = kept["about"].astype(float)

    def losses(key: str) -> np.ndarray:
        return np.where(np.isfinite(kept[key]), kept[key], np.inf).astype(float)

    constant = float(about[:, :, 6].mean())
    near = [any(abs(share - place) < 1e-6 for place in SHARES) for share in evidence.SHARES]
    return Table(
        name,
        tuple(about[0, :, 0]),
        evidence.SHARES,
        about[:, :, 2].mean(axis=1),
        losses("raw"),
        losses("mean06"),
        np.full((*about.shape[:2], 4), np.inf),
        losses("train"),
        about[:, :, 4] / about[:, :, 5],
        np.where(near, losses("mean02"), np.inf),
        constant if math.isfinite(constant) else None,
    )


@cache
def start(name: str) -> tuple[float, Exposure]:
    """Return what a search begins with: log10 of the rate to begin around, and the exposure."""
    task = evidence.get(name)
    recipe = Recipe(**task.defaults)
    run = Run(task, recipe)
    centre = scaled(centre_of(run.model, task.train.targets(), recipe.optimizer), run)
    return centre, Exposure.of(recipe.schedule, clock_of(task, recipe).horizon)


# ---- the search and parts of it ------------------------------------------------------------------


class Search(search.Search[Entry]):
    """The tuner's own search."""


class NoWiden(Search):
    """Without rates beyond an edge."""

    def widen(self, share: float) -> None:
        """Add none."""


class NoTurn(Search):
    """Without the rule for curves that turn up while the training loss falls."""

    def turned(self, share: float) -> list[Curve]:
        """See none."""
        return []


class NoRest(Search):
    """Without what follows the first finish: runners-up, cures and refinements."""

    def conclude(self) -> Entry:
        """Return the first that is finished."""
        self.finish_best()
        return self.finished() or self.furthest()


PARTS: dict[str, tuple[type[Search], bool]] = {
    "the tuner": (Search, True),
    "on the weights alone, without their mean": (Search, False),
    "without rates beyond an edge": (NoWiden, True),
    "without the rule for overfitting": (NoTurn, True),
    "without what follows the first finish": (NoRest, True),
}
"""Way -> the search, and whether the mean of the weights counts."""


@dataclass(frozen=True)
class Choice:
    """One way on one task with one seed: what it missed, and its cost in full runs."""

    way: str
    task: str
    regret: float
    cost: float


def chosen(way: str, name: str, seed: int, budget: float) -> Choice:
    """Return what a part of the tuner chooses."""
    kind, averaged = PARTS[way]
    table = table_of(name) if averaged else replace(table_of(name), averaged=None)
    centre, exposure = start(name)
    pool = Field(table, seed, budget, exposure)
    best = kind(pool, ladder_for(budget), centre).run()
    done = best.share >= 1 and not best.diverged
    loss = float(table.final[seed, best.rate]) if done else None
    return Choice(way, name, table.regret(loss), budget - pool.left)


def peers(name: str, seed: int) -> Iterator[Choice]:
    """Yield what Optuna and the best rate of the other seeds miss."""
    table = table_of(name)
    for sampler in range(samplers.SEEDS):
        for found in samplers.tpe(table, seed, sampler):
            yield Choice(found.way, name, table.regret(found.loss), found.cost)
    others = [k for k in range(len(table.untrained)) if k != seed]
    rate = int(table.final[others].mean(axis=0).argmin())
    yield Choice("other seeds' best rate", name, table.regret(table.final[seed, rate]), 1.0)


# ---- the page ----------------------------------------------------------------------------------


def row(way: str, found: Sequence[Choice], groups: Sequence[Callable[[str], bool]]) -> str:
    """Return a line: cost, then median, mean and worst regret by group."""
    cells = []
    for inside in groups:
        own = [c.regret for c in found if inside(c.task)]
        cells.append(f"{statistics.median(own):.2%} / {statistics.fmean(own):.2%} / {max(own):.1%}")
    cost = statistics.fmean(c.cost for c in found)
    return f"| {way} | {cost:.2f} | " + " | ".join(cells) + " |"


def section(title: str, names: Sequence[str]) -> list[str]:
    """Return the tables of one half of the tasks."""
    late = {name for name in names if ROWS[name].late}
    groups = [lambda name: name not in late, lambda name: name in late]
    head = [
        f"| way | cost | {len(names) - len(late)} ordinary tasks | {len(late)} that learn late |",
        "|---|---:|---|---|",
    ]
    units = [(name, seed) for name in names for seed in evidence.SEEDS]
    lines = ["", f"## {title}", "", *head]
    for budget in BUDGETS:
        found = [chosen("the tuner", *unit, budget) for unit in units]
        lines.append(row(f"the tuner, {budget:g}", found, groups))
    rivals: dict[str, list[Choice]] = {}
    for unit in units:
        for choice in peers(*unit):
            rivals.setdefault(choice.way, []).append(choice)
    lines += [row(way, found, groups) for way, found in rivals.items()]
    lines += ["", "Parts of the tuner:", "", *head]
    for budget in (1.5, 3.0):
        for way in PARTS:
            found = [chosen(way, *unit, budget) for unit in units]
            lines.append(row(f"{budget:g}, {way}", found, groups))
    return lines


def text(*, held: bool) -> str:
    """Return the page."""
    lines = [
        "# The tuner on fresh tasks",
        "",
        "Median / mean / worst regret over task x 3 seeds, read off 25 rates 0.2 decades apart; "
        "cost in full runs. Every search and sampler runs on the same tables; the rates of the "
        "tuner are moved to the nearest of the grid, so that differences below about 0.1% say "
        "little. A regret below 0 is the luck of a seed. Tables: `benchmarks.evidence`, 16 cores "
        "of an Intel Xeon with torch 2.11, one thread a run. Written by "
        "`python -m benchmarks.fresh_regret --held`.",
        *section("The open half", OPEN),
    ]
    if held:
        lines += ["", OPENED]
        lines += section("The held half", HELD)
    return "\n".join(lines) + "\n"


def main(*, held: bool) -> None:
    """Print and write the page."""
    page = text(held=held)
    print(page)
    (RESULTS / "fresh_regret.md").write_text(page)


if __name__ == "__main__":
    main(held="--held" in arguments.read(__doc__, flags=["--held"])[1])
