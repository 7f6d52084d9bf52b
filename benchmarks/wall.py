"""What a tuning takes by the clock: `tune` at 3 runs against one plain training, in one process.

    python -m benchmarks.wall

Both with the default engine and as many threads as each chooses; rounds alternate, and the median
and the least of their ratios are reported. Beside them stands the ratio of the processors' time,
workers included, which other programs on the machine hardly change: on two free cores a tuning
takes at least half of that. The results go to benchmarks/results/wall.md and wall.json.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import arguments
from etude import Recipe, tasks, train, tune

RESULTS = Path(__file__).parent / "results"
TASKS = (
    "digits-mlp",
    "digits-cnn",
    "digits-resnet",
    "digits-lstm",
    "digits-autoencoder",
    "patches-cnn",
    "diabetes-mlp",
    "cancer-mlp",
)
BUDGET, ROUNDS, MOST = 3.0, 3, 2.0
QUIET = 1.0
"""Load above which the machine was not quiet, and the report says so."""


def timed(go: Callable[[], Any]) -> tuple[float, float, Any]:
    """Return the seconds that something takes, those of the processors, and what it returns."""
    start, busy = time.perf_counter(), processor_time()
    found = go()
    return time.perf_counter() - start, processor_time() - busy, found


def processor_time() -> float:
    """Return the processors' seconds of this process and of its workers that have ended."""
    own, workers = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + workers.ru_utime + workers.ru_stime


def measure(name: str) -> dict[str, Any]:
    """Return seconds of both for every round, and what the tuning spent in full runs."""
    task = tasks.get(name)
    recipe = Recipe(**task.defaults)
    train(task, recipe.replace(steps=20))
    rows = []
    for _ in range(ROUNDS):
        plain, plain_work, _ = timed(lambda: train(task, recipe))
        tuned, tuned_work, best = timed(lambda: tune(task, recipe, BUDGET, progress=False))
        rows.append((plain, tuned, tuned / plain, tuned_work / plain_work, best.evaluation_share))
    columns = [statistics.median(column) for column in zip(*rows, strict=True)]
    names = ("train_s", "tune_s", "ratio", "work", "evaluations")
    return {
        "task": name,
        "cost": best.cost,
        "least": min(row[2] for row in rows),
        **dict(zip(names, columns, strict=True)),
    }


def main() -> None:
    """Measure, print, and write the results."""
    load = os.getloadavg()[0]
    rows = []
    for name in TASKS:
        rows.append(measure(name))
        print(rows[-1], flush=True)
    machine = (
        f"{os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"
    )
    noise = (
        ""
        if load < QUIET
        else " The machine was not quiet: the ratios of the clock are not to be trusted, those of "
        "the processors' time are."
    )
    within = sum(row["ratio"] <= MOST for row in rows)
    lines = [
        "# A tuning by the clock",
        "",
        f"{machine}; load {load:.1f} at the start.{noise} `etude.tune` at {BUDGET:g} runs and "
        f"`etude.train` of the same recipe, {ROUNDS} rounds in turn, medians. "
        "Written by `python -m benchmarks.wall`.",
        "",
        f"The aim is at most {MOST:g}×: {within} of {len(rows)} tasks are within it; the median "
        f"over tasks is {statistics.median(row['ratio'] for row in rows):.2f}×.",
        "",
        "Processors: the processors' time of the tuning over that of the training, workers "
        "included. Evaluations: their share of the time of the tuning's trials.",
        "",
        "| task | train, s | tune, s | runs | evaluations | processors | least ratio | ratio |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {r['task']} | {r['train_s']:.2f} | {r['tune_s']:.2f} | {r['cost']:.2f} "
        f"| {r['evaluations']:.0%} | {r['work']:.2f} | {r['least']:.2f} | {r['ratio']:.2f} |"
        for r in rows
    ]
    print("\n".join(lines))
    (RESULTS / "wall.md").write_text("\n".join(lines) + "\n")
    content = {"machine": machine, "load": load, "rows": rows}
    (RESULTS / "wall.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    arguments.read(__doc__)
    main()
