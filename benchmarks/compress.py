"""What compressing a trained network saves and costs, on three bundled tasks.

Each network is trained with its task's own recipe, then compressed in every way. Size, latency,
accuracy and loss are those of `etude compress`; each row is the mean over the seeds, with the worst
seed where it is a promise:

    python -m benchmarks.compress [TASK ...]

With tasks named, only they are measured; with `--quick` at one seed. The results go to
benchmarks/results/compress.json and compress.md; what the former holds is not measured again, and a
benchmark that is interrupted goes on there.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from benchmarks import arguments
from etude import Recipe, compress, tasks
from etude.files import write_text
from etude.training.train import train

RESULTS = Path(__file__).parent / "results"
PLACE = f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} thread"
TASKS = ("digits-cnn", "digits-resnet", "digits-lstm")
SEEDS = (0, 1, 2)
WAYS: dict[str, dict[str, Any]] = {
    "prune 0.8 alone": {"prune": 0.8, "budget": 0},
    "prune 0.8 tuned": {"prune": 0.8},
    "structured 0.5": {"structured": 0.5},
    "int8 dynamic": {"int8": "dynamic"},
    "int8 static": {"int8": "static"},
    "int8 qat": {"int8": "qat"},
}
"""What is tried; fine-tuning has the default budget of 3 runs, each half as long as training."""


class Target(NamedTuple):
    """What is promised.

    Attributes:
        way: The beginning of the method's name.
        points: The largest loss of accuracy, in points.
        smaller: How many times smaller the weights are at least.
        task: Of which task; empty for all.
    """

    way: str
    points: float
    smaller: float
    task: str = ""


TARGETS = (Target("int8", 1.0, 3.5), Target("prune 0.8 tuned", 1.0, 0.0, "digits-cnn"))


def tried(name: str) -> list[str]:
    """Return the ways that a task is compressed in."""
    # A recurrent network has no channels: its units go back into their gates.
    return [way for way in WAYS if name != "digits-lstm" or "structured" not in way]


def measured(name: str, seed: int, known: Collection[str] = ()) -> Iterator[dict[str, Any]]:
    """Yield what each way gives for one task and seed, without those that are known."""
    ways = [way for way in tried(name) if way not in known]
    if not ways:
        return
    task = tasks.get(name)
    record = train(task, Recipe(**task.defaults).replace(seed=seed))
    for way in ways:
        load = os.getloadavg()[0]
        found = compress(record, task=task, progress=False, **WAYS[way])
        tuning = found.tuning
        yield {
            "task": name,
            "seed": seed,
            "method": way,
            "load": load,
            "bytes": [found.before.bytes, found.after.bytes],
            "tensor_bytes": [found.before.tensor_bytes, found.after.tensor_bytes],
            "accuracy": [found.before.evaluation.metric, found.after.evaluation.metric],
            "loss": [found.before.evaluation.loss, found.after.evaluation.loss],
            "latency": found.latency.plain(),
            "sparsity": found.sparsity,
            "schedule": None if tuning is None else tuning.how if tuning.used else "none",
            "lr": None if tuning is None or not tuning.used else tuning.lr,
        }


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of the table, the seeds of a row taken together."""
    yield (
        "| task | method | file, bytes | smaller: file | weights | latency | accuracy "
        "| lost, points | loss | gone | fine-tuning |"
    )
    yield "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---|"
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["task"], row["method"]), []).append(row)
    for (task, method), group in groups.items():
        before, after = (statistics.mean(r["accuracy"][i] for r in group) for i in (0, 1))
        old, new = (statistics.mean(r["loss"][i] for r in group) for i in (0, 1))
        size = [round(statistics.mean(r["bytes"][i] for r in group)) for i in (0, 1)]
        ratio = statistics.mean(r["tensor_bytes"][0] / r["tensor_bytes"][1] for r in group)
        pace = statistics.median(r["latency"]["ratio"] for r in group)
        gone = statistics.mean(r["sparsity"] for r in group)
        worst = max(lost(r) for r in group)
        how = ", ".join(
            f"{r['schedule']} {r['lr']:g}" if r["lr"] else str(r["schedule"] or "–") for r in group
        )
        yield (
            f"| {task} | {method} | {size[0]:,} → {size[1]:,} | {size[0] / size[1]:.2f}× "
            f"| {ratio:.2f}× | ×{pace:.2f} | {100 * before:.2f}% → {100 * after:.2f}% "
            f"| {100 * (before - after):.2f} (worst {worst:.2f}) | {old:.4f} → {new:.4f} "
            f"| {gone:.0%} | {how} |"
        )


def lost(row: dict[str, Any]) -> float:
    """Return by how many points the accuracy fell."""
    before, after = row["accuracy"]
    return 100 * float(before - after)


def judged(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a line for each promise: whether every seed keeps it."""
    for target in TARGETS:
        group = [
            r for r in rows
            if r["method"].startswith(target.way) and target.task in ("", r["task"])
        ]  # fmt: skip
        worst = max(lost(r) for r in group)
        least = min(r["tensor_bytes"][0] / r["tensor_bytes"][1] for r in group)
        kept = worst <= target.points and least >= target.smaller
        told = f", at least {least:.2f}× smaller weights" if target.smaller else ""
        wanted = f" and ≥ {target.smaller:g}× smaller weights" if target.smaller else ""
        yield (
            f"- {target.way}{f' on {target.task}' if target.task else ''}: ≤ {target.points:g} "
            f"point{wanted}: {'kept' if kept else 'missed'} (worst of {len(group)} runs "
            f"{worst:.2f} points{told})."
        )


def main() -> None:
    """Measure, and write the results."""
    names, flags = arguments.read(__doc__, flags=["--quick"], names="task")
    chosen = names or list(TASKS)
    file = RESULTS / "compress.json"
    rows = json.loads(file.read_text())["rows"] if file.exists() else []
    for seed in SEEDS[:1] if "--quick" in flags else SEEDS:
        for name in chosen:
            known = {row["method"] for row in rows if (row["task"], row["seed"]) == (name, seed)}
            for row in measured(name, seed, known):
                rows.append(row)
                print(row["task"], seed, row["method"], f"{lost(row):.2f} points", file=sys.stderr)
                keep(file, rows)
    keep(file, rows)
    write(rows)


def keep(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write what was measured, in the order of tasks, ways and seeds."""
    order, ways = list(TASKS), list(WAYS)
    rows.sort(key=lambda r: (order.index(r["task"]), ways.index(r["method"]), r["seed"]))
    write_text(file, json.dumps({"where": PLACE, "rows": rows}, indent=1) + "\n")


def write(rows: list[dict[str, Any]]) -> None:
    """Write the page of results, and print it."""
    count = len({row["seed"] for row in rows})
    seeds = "one seed" if count == 1 else f"means over {count} seeds"
    loads, cores = [row["load"] for row in rows], os.cpu_count() or 1
    told = f"{min(loads):.0f} to {max(loads):.0f}"
    busy = f" The load was {told} on {cores} cores: latencies tell little." * (max(loads) > cores)
    text = "\n".join(
        (
            "# Compressed models",
            "",
            f"`python -m benchmarks.compress`, {PLACE}; {seeds}. A point of accuracy is 3.6 of the "
            "360 validation samples. Latency: the median ratio of neighbouring forward passes of "
            f"one batch, after / before.{busy} Weights: the tensors of the file without its header "
            "of names and shapes, which is a large part of so small files. "
            "Fine-tuning: the schedule and rate that the tuner chose, by seed; 'none' where it was "
            "no better than the network before.",
            "",
            *table(rows),
            "",
            *judged(rows),
        )
    )
    (RESULTS / "compress.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
