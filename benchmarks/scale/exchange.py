"""What each way to exchange gradients sends and costs: two processes, beside whole gradients.

    python -m benchmarks.scale exchange

Each is tried at the task's own rate, and at a rate that `tune` finds for it with the first seed;
whole gradients too. Bytes are counted at the collectives of one process. The loss cost is the
validation loss at the end minus that with whole gradients, of the same seed and the same way to a
rate, as a share of the latter's drop, in the mean over the seeds. The results go to
benchmarks/results/scale_exchange.json and .md; what the former holds is not measured again, and a
run that is interrupted goes on there.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

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
TASKS = ("digits-mlp", "digits-cnn")
METHODS = (
    "none", "fp16", "bf16", "powersgd", "powersgd(start=2)", "powersgd(rank=2, start=2)",
    "topk(ratio=0.01)", "local-sgd(period=8)", "diloco(inner=50)",
)  # fmt: skip
SEEDS, PROCESSES = (0, 1, 2), 2
OWN, TUNED = "own", "tuned"
BUDGET = 2.0
"""Full runs in which `tune` looks for the rate of one way to exchange gradients."""


class Job(NamedTuple):
    """One run that is measured.

    Attributes:
        task: The task.
        method: The recipe's `compress`.
        seed: The recipe's seed.
        rate: Whose rate it has: the task's own, or one that was tuned for the method.
    """

    task: str
    method: str
    seed: int
    rate: str


def measured(job: Job, lr: float | None, world: World) -> dict[str, Any]:
    """Return what one run sent, and how it ended; `lr` is its rate, None for the task's own."""
    of = etude.tasks.get(job.task)
    recipe = Recipe(**of.defaults, seed=job.seed, compress=job.method, evaluations=1)
    recipe = recipe if lr is None else recipe.replace(lr=lr)
    record = etude.train(of, recipe, world=world)
    cost = record.cost
    return {
        **job._asdict(),
        "lr": recipe.lr,
        "steps": cost.steps,
        "bytes": record.notes["bytes_sent"],
        "ms": 1e3 * (cost.seconds - (cost.evaluation_seconds or 0.0)) / cost.steps,
        "untrained": record.evaluations[0].loss,
        "loss": record.evaluations[-1].loss if record.status == "finished" else math.inf,
        "accuracy": record.evaluations[-1].metric,
    }


def tuned(task: str, method: str, world: World) -> float:
    """Return the rate that `tune` finds for a way to exchange gradients, with the first seed."""
    of = etude.tasks.get(task)
    recipe = Recipe(**of.defaults, seed=SEEDS[0])
    over = {"compress": [method]}
    best = etude.tune(of, recipe, BUDGET, over=over, world=world, progress=False)
    return best.lr


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
        kept = json.loads(target.read_text()) if target.exists() else {"rates": {}, "rows": []}
        rates, rows = kept["rates"], kept["rows"]
        known = {tuple(row[name] for name in Job._fields) for row in rows}
        for job in jobs():
            if job in known:
                continue
            name = f"{job.task} {job.method}"
            if job.rate == TUNED and name not in rates:
                rates[name] = tuned(job.task, job.method, world)
            rows.append(measured(job, rates[name] if job.rate == TUNED else None, world))
            if world.is_main:
                print(rows[-1], flush=True)
                target.write_text(json.dumps(kept, indent=1) + "\n")


def jobs() -> list[Job]:
    """Return what is measured: first each task at its own rate, then at tuned ones."""
    return [
        Job(task, method, seed, rate)
        for rate in (OWN, TUNED)
        for task in TASKS
        for seed in SEEDS
        for method in METHODS
    ]


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the means over the seeds, beside whole gradients."""
    found = []
    for task, rate in dict.fromkeys((row["task"], row["rate"]) for row in rows):
        of = [row for row in rows if (row["task"], row["rate"]) == (task, rate)]
        whole = {row["seed"]: row for row in of if row["method"] == "none"}
        for method in METHODS:
            own = [row for row in of if row["method"] == method and row["seed"] in whole]
            if not own:
                continue
            costs = [
                (row["loss"] - whole[row["seed"]]["loss"])
                / (whole[row["seed"]]["untrained"] - whole[row["seed"]]["loss"])
                for row in own
            ]
            found.append(
                {
                    "task": task,
                    "method": method,
                    "rate": rate,
                    "lr": own[0]["lr"],
                    "seeds": len(own),
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
        f"{PROCESSES} processes over gloo on the loopback device, torch {torch.__version__}, each "
        "task's own recipe; its rate is the task's own, or one that `tune` found for the method in "
        f"{BUDGET:g} full runs with the first seed. Bytes are those that one process sends for "
        "gradients and weights, counted at the collectives, over the whole run with its "
        "uncompressed start. Loss cost: beside whole gradients of the same seed, at the task's own "
        "rate or at the one tuned for them. Bytes and losses do not depend on how busy the machine "
        "is; the step times do: other programs shared it. Written by "
        "`python -m benchmarks.scale exchange`.",
        "",
        "| task | rate | compress | seeds | step, ms | bytes an update | fewer "
        "| loss cost, % of the drop | worst seed | accuracy |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {r['task']} | {r['rate']}, {r['lr']:.3g} | `{r['method']}` | {r['seeds']} "
        f"| {r['ms']:.2f} | {r['bytes']:,.0f} | {r['fewer']:.1f}× "
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
    text = page(json.loads(target.read_text())["rows"])
    (RESULTS / "scale_exchange.md").write_text(text)
    print(text)


if __name__ == "__main__":
    work(Path(arguments.read(__doc__, names="target")[0][0]))
