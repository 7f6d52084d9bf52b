"""What each way to exchange gradients sends and costs: two processes, beside whole gradients.

    python -m benchmarks.scale exchange

Bytes are counted at the collectives of one process. The loss cost is the validation loss at the end
minus that with whole gradients at the task's own rate, as a share of the latter's drop, in the mean
over the seeds. The results go to benchmarks/results/scale_exchange.json and .md; what the former
holds is not measured again.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import etude
from benchmarks import arguments
from etude.distributed import join, launch
from etude.distributed.exchange.whole import WholeExchange
from etude.distributed.process_world import ProcessWorld
from etude.recipe import Recipe
from etude.training.world import World

RESULTS = Path(__file__).parents[1] / "results"
TASKS = ("digits-cnn", "digits-mlp")
METHODS = (
    "none", "fp16", "bf16", "powersgd", "powersgd(start=2)", "powersgd(rank=2, start=2)",
    "topk(ratio=0.01)", "local-sgd(period=8)", "diloco(inner=50)",
)  # fmt: skip
SEEDS, PROCESSES = (0,), 2


def measured(task: str, method: str, seed: int, world: World) -> dict[str, Any]:
    """Return what one run sent, and how it ended."""
    of = etude.tasks.get(task)
    recipe = Recipe(**of.defaults, seed=seed, compress=method, evaluations=1)
    record = etude.train(of, recipe, world=world)
    cost = record.cost
    return {
        "task": task,
        "method": method,
        "seed": seed,
        "steps": cost.steps,
        "bytes": record.notes["bytes_sent"],
        "ms": 1e3 * (cost.seconds - (cost.evaluation_seconds or 0.0)) / cost.steps,
        "untrained": record.evaluations[0].loss,
        "loss": record.evaluations[-1].loss if record.status == "finished" else math.inf,
        "accuracy": record.evaluations[-1].metric,
    }


def counting_whole(world: World) -> None:
    """Let runs without compression count their bytes too."""
    assert isinstance(world, ProcessWorld)
    plain = world.exchange
    group = dist.group.WORLD
    assert group is not None
    world.exchange = lambda recipe: plain(recipe) or WholeExchange(None, group)  # type: ignore[method-assign]


def work(target: Path) -> None:
    """Measure everything, in one of the processes; the first one writes."""
    torch.set_num_threads(1)
    with join() as world:
        counting_whole(world)
        rows = json.loads(target.read_text()) if target.exists() else []
        known = {(r["task"], r["method"], r["seed"]) for r in rows}
        for one in jobs():
            if one in known:
                continue
            rows.append(measured(*one, world))
            if world.is_main:
                print(rows[-1], flush=True)
                target.write_text(json.dumps(rows, indent=1) + "\n")


def jobs() -> list[tuple[str, str, int]]:
    """Return what is measured: task, method, seed."""
    return [(task, method, seed) for task in TASKS for seed in SEEDS for method in METHODS]


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the means over the seeds, beside whole gradients."""
    found = []
    for task in dict.fromkeys(row["task"] for row in rows):
        of = [row for row in rows if row["task"] == task]
        whole = {row["seed"]: row for row in of if row["method"] == "none"}
        for method in dict.fromkeys(row["method"] for row in of):
            own = [row for row in of if row["method"] == method]
            costs = [
                (row["loss"] - whole[row["seed"]]["loss"])
                / (whole[row["seed"]]["untrained"] - whole[row["seed"]]["loss"])
                for row in own
            ]
            found.append(
                {
                    "task": task,
                    "method": method,
                    "ms": statistics.median(row["ms"] for row in own),
                    "bytes": own[0]["bytes"] / own[0]["steps"],
                    "fewer": whole[own[0]["seed"]]["bytes"] / own[0]["bytes"],
                    "cost": statistics.mean(costs),
                    "worst": max(costs),
                    "accuracy": statistics.mean(row["accuracy"] for row in own),
                }
            )
    return found


def page(rows: list[dict[str, Any]]) -> str:
    """Return the results as a page."""
    lines = [
        "# What an exchange of gradients sends and costs",
        "",
        f"{PROCESSES} processes over gloo on the loopback device, torch {torch.__version__}, "
        f"{len(SEEDS)} seed, each task's own recipe, at its own rate. Bytes are those that one "
        "process sends for gradients and weights, counted at the collectives, over the whole run "
        "with its uncompressed start. Other programs shared the machine: the step times tell "
        "little. Written by `python -m benchmarks.scale exchange`.",
        "",
        "| task | compress | step, ms | bytes an update | fewer | loss cost, % of the drop "
        "| worst seed | accuracy |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {r['task']} | `{r['method']}` | {r['ms']:.2f} | {r['bytes']:,.0f} | {r['fewer']:.1f}× "
        f"| {100 * r['cost']:.2f} | {100 * r['worst']:.2f} | {r['accuracy']:.4f} |"
        for r in summary(rows)
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure in two processes, and write the page."""
    target = RESULTS / "scale_exchange.json"
    command = [sys.executable, "-m", "benchmarks.scale.exchange", str(target)]
    if code := launch(command, PROCESSES):
        sys.exit(code)
    text = page(json.loads(target.read_text()))
    (RESULTS / "scale_exchange.md").write_text(text)
    print(text)


if __name__ == "__main__":
    work(Path(arguments.read(__doc__, names="target")[0][0]))
