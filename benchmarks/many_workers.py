"""How long a tuning takes with many workers: a model of its critical path, checked with two.

    python -m benchmarks.many_workers [--measure]

The search is replayed on the tables of `benchmarks.oracle`, with 3 runs, and every call of the pool
takes as long as the updates of its runs take on so many workers:

    T = max(longest, sum / workers), in updates of one full run

(McNaughton 1959: runs may be cut). Trials that the search names ahead are trained where workers
would be idle, by the rule of `TrialPool`; their updates are work, though they cost nothing of the
budget. Evaluations, and starting and sending, are left out. With --measure, tunings with two
processes are timed beside it, and the ratio of both to one plain training is compared. The results
go to benchmarks/results/many_workers.md and many_workers.json.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import arguments, table
from benchmarks.table import Entry, Field
from etude import Recipe, tasks, train
from etude.engines import PoolEngine
from etude.trials.guess import MANY, Guess
from etude.trials.phase import Phase
from etude.tuning.search.ladder import ladder_for
from etude.tuning.search.search import Search
from etude.tuning.tune import tune

RESULTS = Path(__file__).parent / "results"
BUDGET, SEEDS = 3.0, (0, 1, 2)
WORKERS = (1, 2, 4, 8, 16)
AIM = 1.4
MEASURED = ("cancer-mlp", "diabetes-mlp", "digits-cnn")
ROUNDS = 3


class TimedField(Field):
    """The trials of a search on a table, and how long they take on some workers.

    Args:
        workers: How many runs are trained at the same time.
        speculate: Whether trials are trained ahead; without it, as the search asks for them.
        more: As for `Field`.
    """

    def __init__(self, workers: int, *more: Any, speculate: bool = True) -> None:
        super().__init__(*more)
        self.workers, self.speculate = workers, speculate
        self.wall = self.work = 0.0
        self.walls: dict[str, float] = {}
        self.reached: dict[int, float] = {}
        self.guessed: dict[int, float] = {}

    def go(
        self,
        trials: Sequence[Entry],
        share: float,
        phase: Phase,
        ahead: Sequence[Entry] = (),
        guess: Guess[Entry, float] | None = None,
    ) -> None:
        """Take some to a share of their runs, and count how long that takes."""
        aims = {one.rate: share for one in trials}
        self.guessed = {rate: far for rate, far in self.guessed.items() if far == share}
        for one in trials:
            if self.guessed.pop(one.rate, share) == share:
                continue
            self.reached.pop(one.rate, None)
        if self.speculate and self.workers > 1:
            self._add_idle(aims, [(one, share) for one in ahead], share, guess or Guess())
        jobs = [self._left(rate, far) for rate, far in aims.items()]
        for rate, far in aims.items():
            self.reached[rate] = max(self.reached.get(rate, 0.0), far)
        took = max(max(jobs, default=0.0), sum(jobs) / self.workers)
        self.wall, self.work = self.wall + took, self.work + sum(jobs)
        self.walls[str(phase)] = self.walls.get(str(phase), 0.0) + took
        super().go(trials, share, phase)

    def _left(self, rate: int, far: float) -> float:
        end = float(self.table.ends[self.seed, rate])
        return max(0.0, min(far, end) - min(self.reached.get(rate, 0.0), end))

    def _within(self, rate: int, far: float, most: float) -> float:
        """Return how far a rate goes on if it takes no more than so much."""
        return min(far, self.reached.get(rate, 0.0) + most)

    def _add_idle(
        self,
        aims: dict[int, float],
        ahead: list[tuple[Entry, float]],
        share: float,
        guess: Guess[Entry, float],
    ) -> None:
        longest = max(self._left(rate, far) for rate, far in aims.items())
        within = [(one, self._within(one.rate, far, longest)) for one, far in guess.further]
        for one, far in [*ahead, *within]:
            if one.rate in aims or self._left(one.rate, far) <= 0:
                continue
            if len(aims) >= self.workers:
                return
            aims[one.rate] = far
        for lr in guess.new if self.workers >= MANY and share <= longest else ():
            rate = self.table.nearest(lr)
            if len(aims) >= self.workers:
                return
            if rate not in self.entries and rate not in aims:
                aims[rate] = self.guessed[rate] = share


def timed(name: str, seed: int, workers: int, *, speculate: bool = True) -> TimedField:
    """Replay a tuning of a task on so many workers."""
    centre, exposure = table.start(name)
    pool = TimedField(workers, table.load(name), seed, BUDGET, exposure, speculate=speculate)
    Search(pool, ladder_for(BUDGET), centre).run()
    return pool


def model() -> dict[str, Any]:
    """Return the critical path of every tuning, by workers."""
    rows = []
    for name in table.known():
        for seed in SEEDS:
            pools = {w: timed(name, seed, w) for w in WORKERS}
            plain = timed(name, seed, max(WORKERS), speculate=False)
            rows.append(
                {
                    "task": name,
                    "seed": seed,
                    "walls": {str(w): pool.wall for w, pool in pools.items()},
                    "work": {str(w): pool.work for w, pool in pools.items()},
                    "cost": BUDGET - plain.left,
                    "candidates": len(plain.entries),
                    "plain": plain.wall,
                    "plain_by": plain.walls,
                    "by": pools[max(WORKERS)].walls,
                }
            )
    return {"rows": rows}


def measured(name: str) -> dict[str, Any]:
    """Time tunings with one and two processes against one plain training.

    The model is of updates; what a training of one run takes is measured with the tuning's own
    threads, one.
    """
    torch.set_num_threads(1)
    task = tasks.get(name)
    recipe = Recipe(**task.defaults)
    train(task, recipe.replace(steps=20))
    rounds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        train(task, recipe)
        plain = time.perf_counter() - started
        walls = []
        for workers in (1, 2):
            with PoolEngine(workers) as engine:
                started = time.perf_counter()
                tune(task, recipe, BUDGET, engine=engine, progress=False)
                walls.append(time.perf_counter() - started)
        rounds.append([plain, *walls])
    plain, one, two = (statistics.median(column) for column in zip(*rounds, strict=True))
    return {"task": name, "plain": plain, "one": one / plain, "two": two / plain}


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median, the ninetieth percentile and the largest value."""
    ordered = sorted(values)
    return statistics.median(ordered), ordered[int(0.9 * (len(ordered) - 1))], ordered[-1]


def lines(found: dict[str, Any]) -> list[str]:
    """Return the report."""
    rows = found["rows"]
    widest = str(max(WORKERS))
    within = sum(row["walls"][widest] <= AIM for row in rows)
    eight = sum(row["walls"]["8"] <= AIM for row in rows)
    table_of = []
    for w in map(str, WORKERS):
        median, ninety, most = quartiles([row["walls"][w] for row in rows])
        work = statistics.mean(row["work"][w] for row in rows)
        inside = sum(row["walls"][w] <= AIM for row in rows) / len(rows)
        table_of.append(
            f"| {w} | {median:.2f} | {ninety:.2f} | {most:.2f} | {inside:.0%} | {work:.2f} |"
        )
    median, ninety, most = quartiles([row["plain"] for row in rows])
    plain_work = statistics.mean(row["cost"] for row in rows)
    table_of.append(
        f"| {widest}, nothing ahead | {median:.2f} | {ninety:.2f} | {most:.2f} | "
        f"{sum(row['plain'] <= AIM for row in rows) / len(rows):.0%} | {plain_work:.2f} |"
    )
    parts: dict[str, list[float]] = {}
    for row in rows:
        for phase in {*row["by"], *row["plain_by"]}:
            parts.setdefault(phase, [0.0, 0.0])
            parts[phase][0] += row["plain_by"].get(phase, 0.0) / len(rows)
            parts[phase][1] += row["by"].get(phase, 0.0) / len(rows)
    head = [
        "# A tuning on many workers",
        "",
        f"Tunings at {BUDGET:g} runs, replayed on the tables of {len(rows) // len(SEEDS)} tasks "
        f"with {len(SEEDS)} seeds: the critical path in updates of one full run. Evaluations, "
        "starting and sending are left out. Written by `python -m benchmarks.many_workers`.",
        "",
        f"The aim is at most {AIM:g} runs with as many workers as candidates. A tuning has "
        f"{min(row['candidates'] for row in rows)} to {max(row['candidates'] for row in rows)} "
        f"candidates. With {widest} workers {within} of {len(rows)} tunings are within it, with 8 "
        f"workers {eight}.",
        "",
        "Work: the updates that were made, those in vain included, in full runs. The last row is "
        "the search without trials that are trained ahead.",
        "",
        "| workers | median | 90% | longest | within the aim | work |",
        "|---|---:|---:|---:|---:|---:|",
        *table_of,
        "",
        f"What is on the path, in runs, means over the tunings, with {widest} workers:",
        "",
        "| part | nothing ahead | with what is trained ahead |",
        "|---|---:|---:|",
        *(
            f"| {phase} | {a:.3f} | {b:.3f} |"
            for phase, (a, b) in sorted(parts.items(), key=lambda pair: -pair[1][0])
        ),
    ]
    return [*head, *_measured_lines(found)]


def _measured_lines(found: dict[str, Any]) -> list[str]:
    if "measured" not in found:
        return []
    rows = []
    for one in found["measured"]:
        models = [r["walls"] for r in found["rows"] if r["task"] == one["task"]]
        told = {w: statistics.median(walls[w] for walls in models) for w in ("1", "2")}
        rows.append(
            f"| {one['task']} | {one['plain']:.2f} | {told['1']:.2f} | {one['one']:.2f} | "
            f"{told['2']:.2f} | {one['two']:.2f} | {one['two'] / one['one']:.2f} | "
            f"{told['2'] / told['1']:.2f} |"
        )
    return [
        "",
        f"Measured with one and two processes, {ROUNDS} rounds in turn, medians, as ratios to one "
        f"plain training with one thread; load {found['load']:.1f} at the start. What is left out "
        "of the model, evaluations above all, is in the measured ratios; the last two columns "
        "compare what the second process saves.",
        "",
        "| task | train, s | one: model | measured | two: model | measured | two/one measured | "
        "two/one model |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        *rows,
    ]


def main() -> None:
    """Replay, measure if asked to, print, and write the results."""
    _, flags = arguments.read(__doc__, flags=["--measure"])
    kept = RESULTS / "many_workers.json"
    found = model()
    if "--measure" in flags:
        found["load"] = os.getloadavg()[0]
        found["measured"] = [measured(name) for name in MEASURED]
    elif kept.exists():
        before = json.loads(kept.read_text())
        found |= {name: before[name] for name in ("load", "measured") if name in before}
    text = lines(found)
    print("\n".join(text))
    (RESULTS / "many_workers.md").write_text("\n".join(text) + "\n")
    kept.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
