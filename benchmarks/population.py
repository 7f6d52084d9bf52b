"""Populations against the best fixed schedule and against the tuner, at equal cost.

    python -m benchmarks.population [TASK ...]

Each way may spend 8 full runs: a population of 8 members that multiplies the recipe's own schedule;
one that learns the whole schedule after the warmup; a grid of 8 rates on the recipe's schedule,
which is the best fixed schedule; and `tune`. All are judged by the final validation loss, which all
of them chose by, as the share of the drop from the untrained loss to the best of the four that they
miss. What they found is then trained anew with two seeds that none of them saw: this is what the
answer is worth elsewhere. The results go to benchmarks/results/population.md and population.json;
what the latter holds is not measured again, and a benchmark that is interrupted goes on there.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import arguments
from etude import Recipe, tasks, train
from etude.files import write_text
from etude.measure.gradient_scale import scaled
from etude.methods.grid import grid
from etude.methods.population import MEMBERS, population
from etude.optimizers.prior import centre_of
from etude.optimizers.prior import grid as rates_around
from etude.record import Record, Status
from etude.tasks.task import Task
from etude.training.run import Run
from etude.tuning.search.ladder import SPACING
from etude.tuning.tune import tune

RESULTS = Path(__file__).parent / "results"
TASKS = ("cancer-mlp", "diabetes-mlp", "digits-mlp")
STEPS = {"digits-mlp": 1_000}
"""Shorter runs than the task's own, where these take minutes."""

SEEDS, OTHERS = (0, 1, 2), (100, 101)
WAYS = {
    "population on the recipe's schedule": "factor",
    "population, the whole schedule learned": "whole",
    "grid: the best fixed schedule": "grid",
    "tune": "tune",
}


def answer(way: str, task: Task, recipe: Recipe) -> tuple[Recipe, Record | None, float]:
    """Return the recipe that a way finds, its record and its cost in full runs."""
    if way == "tune":
        best = tune(task, recipe, float(MEMBERS), progress=False)
        return best.recipe, best.record, best.cost
    if way == "grid":
        centre = centre_of(task.build(), task.train.targets(), recipe.optimizer)
        lrs = rates_around(scaled(centre, Run(task, recipe)), MEMBERS, SPACING)
        found = grid(task, recipe, lrs, progress=False)
        return found.recipe, found.record, found.cost
    if way == "whole":
        recipe = recipe.replace(schedule="warmup('5%') >> constant()")
    learned = population(task, recipe, MEMBERS, progress=False)
    return learned.recipe, learned.record, learned.cost


def loss_of(record: Record | None) -> float:
    """Return the validation loss at the end of a run; infinite if it did not end."""
    ended = record is not None and record.status == Status.FINISHED
    return record.valid_loss if ended and record is not None else math.inf


def measured(row: dict[str, Any]) -> Iterator[str]:
    """Add to a row what every way gives that it lacks; yield the name of each."""
    task = tasks.get(row["task"])
    recipe = Recipe(**{**task.defaults, "seed": row["seed"]})
    recipe = recipe.replace(steps=STEPS.get(row["task"], recipe.steps))
    for title, way in WAYS.items():
        if title in row["ways"]:
            continue
        load, started = os.getloadavg()[0], time.perf_counter()
        found, record, cost = answer(way, task, recipe)
        seconds = time.perf_counter() - started
        again = [train(task, found.replace(seed=other), evaluations=1) for other in OTHERS]
        row["untrained"] = record.evaluations[0].loss if record is not None else math.nan
        row["ways"][title] = {
            "loss": loss_of(record),
            "elsewhere": statistics.mean(map(loss_of, again)),
            "cost": cost,
            "seconds": seconds,
            "load": load,
            "lr": found.lr,
            "schedule": repr(found.schedule),
        }
        yield title


def missed(row: dict[str, Any], what: str) -> dict[str, float]:
    """Return the share of the drop to the best of the ways that each misses."""
    losses = {title: one[what] for title, one in row["ways"].items()}
    best = min(losses.values())
    scale = row["untrained"] - best
    return {title: min(1.0, (loss - best) / scale) for title, loss in losses.items()}


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """Return the report."""
    loads = [way["load"] for row in rows for way in row["ways"].values()]
    names = list(dict.fromkeys(row["task"] for row in rows))
    told = ", ".join(
        f"{name} ({f'{STEPS[name]:,} updates, ' if name in STEPS else ''}seeds "
        f"{', '.join(str(row['seed']) for row in rows if row['task'] == name)})"
        for name in names
    )
    head = [
        "# Populations at equal cost",
        "",
        f"{told}; "
        f"{MEMBERS} full runs for each way; torch {torch.__version__}, load {min(loads):.0f} "
        f"to {max(loads):.0f}. Written by `python -m benchmarks.population`.",
        "",
        "Missed: the share of the drop from the untrained loss to the best of the four ways, means "
        "over the seeds. Elsewhere: the same of the answer, trained anew with two seeds that no "
        "way saw.",
    ]
    for what, title in (("loss", "missed"), ("elsewhere", "missed elsewhere")):
        head += ["", f"| {title} | {' | '.join(names)} | all | worst |"]
        head += ["|---|" + "---:|" * (len(names) + 2)]
        for way in WAYS:
            shares = {
                name: [missed(row, what)[way] for row in rows if row["task"] == name]
                for name in names
            }
            every = [share for each in shares.values() for share in each]
            cells = [f"{statistics.mean(each):.1%}" for each in shares.values()]
            head.append(
                f"| {way} | {' | '.join(cells)} | {statistics.mean(every):.1%} | {max(every):.1%} |"
            )
    head += ["", "| way | cost | seconds |", "|---|---:|---:|"]
    for way in WAYS:
        costs = [row["ways"][way]["cost"] for row in rows]
        seconds = [row["ways"][way]["seconds"] for row in rows]
        head.append(f"| {way} | {statistics.mean(costs):.2f} | {statistics.mean(seconds):.1f} |")
    return head


def main() -> None:
    """Measure, print, and write the results."""
    names, _ = arguments.read(__doc__, names="task")
    kept = RESULTS / "population.json"
    rows: list[dict[str, Any]] = json.loads(kept.read_text())["rows"] if kept.exists() else []
    for seed in SEEDS:
        for name in names or TASKS:
            row = next((r for r in rows if (r["task"], r["seed"]) == (name, seed)), None)
            if row is None:
                rows.append(row := {"task": name, "seed": seed, "ways": {}})
            for title in measured(row):
                print(name, seed, title, json.dumps(row["ways"][title]), flush=True)
                write_text(kept, json.dumps({"rows": rows}, indent=1) + "\n")
            text = lines([row for row in rows if len(row["ways"]) == len(WAYS)])
            write_text(RESULTS / "population.md", "\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main()
