"""What a tuning takes by the clock: `tune` at 3 runs against one plain training, in one process.

    python -m benchmarks.wall

Both with the default engine and as many threads as each chooses; rounds alternate, and the median
of their ratios is reported. The first round, which starts the engine's processes where there are
any, stands beside it. The results go to benchmarks/results/wall.md and wall.json.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

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


def timed(go: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that something takes, and what it returns."""
    start = time.perf_counter()
    found = go()
    return time.perf_counter() - start, found


def measure(name: str) -> dict[str, Any]:
    """Return seconds of both for every round, and what the tuning spent in full runs."""
    task = tasks.get(name)
    recipe = Recipe(**task.defaults)
    train(task, recipe.replace(steps=20))
    plain, tuned, costs = [], [], []
    for _ in range(ROUNDS):
        seconds, _ = timed(lambda: train(task, recipe))
        plain.append(seconds)
        seconds, best = timed(lambda: tune(task, recipe, BUDGET, progress=False))
        tuned.append(seconds)
        costs.append(best.cost)
    ratios = [b / a for a, b in zip(plain, tuned, strict=True)]
    return {
        "task": name,
        "train_s": statistics.median(plain),
        "tune_s": statistics.median(tuned),
        "cost": statistics.median(costs),
        "first": ratios[0],
        "ratio": statistics.median(ratios),
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
    noise = "" if load < QUIET else " The machine was not quiet: the ratios are not to be trusted."
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
        "| task | train, s | tune, s | runs spent | ratio, first round | ratio |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {r['task']} | {r['train_s']:.2f} | {r['tune_s']:.2f} | {r['cost']:.2f} "
        f"| {r['first']:.2f} | {r['ratio']:.2f} |"
        for r in rows
    ]
    print("\n".join(lines))
    (RESULTS / "wall.md").write_text("\n".join(lines) + "\n")
    content = {"machine": machine, "load": load, "rows": rows}
    (RESULTS / "wall.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
