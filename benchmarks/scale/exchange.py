"""What each way to exchange gradients sends and costs: two processes, beside whole gradients.

    python -m benchmarks.scale exchange

Each is tried at the task's own rate and at a rate that is tuned for it: multiples of the task's own
are tried with the first seed, further ones while the best is the first or the last; then the two
best with all seeds, and the lowest mean loss decides. Whole gradients are tuned on the same grid,
all of it with all seeds. Bytes are counted at the collectives of one process. The loss cost is the
validation loss at the end minus that with whole gradients, of the same seed and tuned too, as a
share of the latter's drop. The results go to benchmarks/results/scale_exchange.json and .md; what
the former holds is not measured again, and a benchmark that is interrupted goes on there. `--page`
writes the page of what is there.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

import etude
from benchmarks import arguments
from etude.distributed import join, launch
from etude.distributed.exchange.whole import WholeExchange
from etude.distributed.process_world import ProcessWorld
from etude.files import write_text
from etude.recipe import Recipe
from etude.training.world import World

RESULTS = Path(__file__).parents[1] / "results"
TASKS = ("digits-cnn", "digits-mlp")
WHOLE = "none"
METHODS = (
    WHOLE, "powersgd", "diloco(inner=50)", "local-sgd(period=8)", "topk(ratio=0.01)",
    "powersgd(rank=2, start=2)", "fp16", "bf16", "powersgd(start=2)",
)  # fmt: skip
SEEDS, PROCESSES = (0, 1, 2), 2
GRID = (1.0, 2.0, 4.0)
"""Multiples of the task's own rate; the next ones below and above are tried where needed."""

FINALS = 2
"""How many multiples are tried with all seeds, those that are best with the first one; of whole
gradients all are."""

SPACING, BOUNDS = 2.0, (1 / 16, 64.0)

Row = dict[str, Any]


class Job(NamedTuple):
    """One run that is measured.

    Attributes:
        task: The task.
        method: The recipe's `compress`.
        seed: The recipe's seed.
        factor: Its rate, as a multiple of the task's own.
    """

    task: str
    method: str
    seed: int
    factor: float


class Target(NamedTuple):
    """What is promised of a method at its tuned rate, on every task.

    Attributes:
        method: The recipe's `compress`.
        fewer: How many times fewer bytes at least.
        cost: The largest mean loss cost, as a share of the drop.
    """

    method: str
    fewer: float
    cost: float


TARGETS = (Target("powersgd", 20.0, 0.005), Target("diloco(inner=50)", 1.0, 0.01))


def measured(job: Job, world: World) -> Row:
    """Return what one run sent, and how it ended."""
    of = etude.tasks.get(job.task)
    recipe = Recipe(**of.defaults, seed=job.seed, compress=job.method, evaluations=1)
    recipe = recipe.replace(lr=recipe.lr * job.factor)
    started = time.process_time()
    record = etude.train(of, recipe, world=world)
    seconds = time.process_time() - started
    cost = record.cost
    return {
        **job._asdict(),
        "lr": recipe.lr,
        "steps": cost.steps,
        "bytes": record.notes["bytes_sent"],
        "cpu_ms": 1e3 * seconds / cost.steps,
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
        rows = read(target)
        world.barrier()  # until all have read what is there
        while (job := next_job(rows)) is not None:
            rows.append(world.gather(measured(job, world))[0])
            if world.is_main:
                print(rows[-1], flush=True)
                write_text(target, json.dumps({"rows": rows}, indent=1) + "\n")


def read(target: Path) -> list[Row]:
    """Return what was measured before."""
    return json.loads(target.read_text())["rows"] if target.exists() else []


# ---- what is measured --------------------------------------------------------------------------


def next_job(rows: list[Row]) -> Job | None:
    """Return the first run that has not been measured, given those that have."""
    known = {tuple(row[name] for name in Job._fields) for row in rows}
    pairs = [(m, t) for group in (METHODS[:3], METHODS[3:]) for t in TASKS for m in group]
    for method, task in pairs:
        if missing := [job for job in wanted(rows, task, method) if job not in known]:
            return missing[0]
    own = [Job(task, method, seed, 1.0) for method, task in pairs for seed in SEEDS]
    return next((job for job in own if job not in known), None)


def wanted(rows: list[Row], task: str, method: str) -> list[Job]:
    """Return the runs that tune a method on a task: the grid, then its best with all seeds."""
    factors = grid(losses(rows, task, method))
    jobs = [Job(task, method, SEEDS[0], factor) for factor in factors]
    found = finals(rows, task, method)
    return [*jobs, *(Job(task, method, seed, f) for f in found for seed in SEEDS)]


def finals(rows: list[Row], task: str, method: str) -> list[float]:
    """Return the multiples of the rate that are tried with all seeds; none before the grid."""
    found = losses(rows, task, method)
    done = set(grid(found)) <= set(found)
    count = len(found) if method == WHOLE else FINALS
    return sorted(found, key=found.__getitem__)[:count] if done else []


def losses(rows: list[Row], task: str, method: str) -> dict[float, float]:
    """Return the loss at each multiple of the rate that was tried with the first seed, in order."""
    found = {
        row["factor"]: row["loss"]
        for row in rows
        if (row["task"], row["method"], row["seed"]) == (task, method, SEEDS[0])
    }
    return dict(sorted(found.items()))


def grid(found: dict[float, float]) -> tuple[float, ...]:
    """Return the multiples of the rate to try, given the losses at those that were.

    >>> grid({}), grid({1.0: 0.2, 2.0: 0.1, 4.0: 0.3})
    ((1.0, 2.0, 4.0), (1.0, 2.0, 4.0))
    >>> grid({1.0: 0.4, 2.0: 0.3, 4.0: 0.2})
    (1.0, 2.0, 4.0, 8.0)
    """
    if not set(GRID) <= set(found):
        return GRID
    best = min(found, key=found.__getitem__)
    more = {
        best * step for step, end in ((1 / SPACING, min(found)), (SPACING, max(found)))
        if best == end
    }  # fmt: skip
    return tuple(sorted({*found, *(f for f in more if BOUNDS[0] <= f <= BOUNDS[1])}))


def tuned(rows: list[Row], task: str, method: str) -> float | None:
    """Return the multiple of the rate with the lowest mean loss; None before all was measured."""
    known = {
        (row["seed"], row["factor"]): row["loss"]
        for row in rows
        if (row["task"], row["method"]) == (task, method)
    }
    found = finals(rows, task, method)
    if not found or any((seed, factor) not in known for seed in SEEDS for factor in found):
        return None
    return min(found, key=lambda f: statistics.mean(known[seed, f] for seed in SEEDS))


# ---- the page ----------------------------------------------------------------------------------


def costs(rows: list[Row], task: str, method: str, factors: tuple[float, float]) -> list[float]:
    """Return the loss cost for each seed, as a share of the drop with whole gradients.

    Args:
        rows: What was measured.
        task: The task.
        method: The recipe's `compress`.
        factors: The multiples of the rate of this method and of whole gradients.
    """
    of = {
        (row["method"], row["factor"], row["seed"]): row for row in rows if row["task"] == task
    }  # fmt: skip
    found = []
    for seed in SEEDS:
        own, whole = of.get((method, factors[0], seed)), of.get((WHOLE, factors[1], seed))
        if own is not None and whole is not None:
            found.append((own["loss"] - whole["loss"]) / (whole["untrained"] - whole["loss"]))
    return found


class Line(NamedTuple):
    """One line of the table: a method on a task, over the seeds.

    Attributes:
        task: The task.
        method: The recipe's `compress`.
        bytes: Bytes that one process sends for an update.
        fewer: How many times fewer than with whole gradients.
        cpu_ms: Processor time of one process for an update.
        own: The loss costs at the task's own rate.
        factor: The tuned rate, as a multiple of that; None before the grid is measured.
        tuned: The loss costs at it.
        accuracy: The mean accuracy at it.
    """

    task: str
    method: str
    bytes: float
    fewer: float
    cpu_ms: float
    own: list[float]
    factor: float | None
    tuned: list[float]
    accuracy: float


def summary(rows: list[Row]) -> Iterator[Line]:
    """Yield the lines of the table."""
    for task in TASKS:
        of = [row for row in rows if row["task"] == task]
        whole = [row for row in of if row["method"] == WHOLE]
        base = tuned(rows, task, WHOLE)
        for method in METHODS:
            own = [row for row in of if row["method"] == method]
            if not own or not whole:
                continue
            factor = tuned(rows, task, method)
            known = factor is not None and base is not None
            times = [row["cpu_ms"] for row in own if row["cpu_ms"] is not None]
            yield Line(
                task,
                method,
                bytes=own[0]["bytes"] / own[0]["steps"],
                fewer=whole[0]["bytes"] / own[0]["bytes"],
                cpu_ms=statistics.median(times) if times else math.nan,
                own=costs(rows, task, method, (1.0, 1.0)),
                factor=factor,
                tuned=costs(rows, task, method, (factor, base)) if known else [],  # type: ignore[arg-type]
                accuracy=statistics.mean(
                    [row["accuracy"] for row in own if row["factor"] == factor] or [math.nan]
                ),
            )


def told(found: list[float]) -> str:
    """Return loss costs in percent: the mean, and the range where there is one.

    >>> told([0.001, 0.003]), told([0.002]), told([])
    ('0.20 (0.10 to 0.30)', '0.20', '–')
    """
    if not found:
        return "–"
    mean = f"{100 * statistics.mean(found):.2f}"
    return mean if len(found) == 1 else f"{mean} ({100 * min(found):.2f} to {100 * max(found):.2f})"


def shown(value: float, digits: int) -> str:
    """Return a number with so many digits, or a dash for one that is not known.

    >>> shown(0.25, 1), shown(math.nan, 1)
    ('0.2', '–')
    """
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def judged(lines: list[Line]) -> Iterator[str]:
    """Yield a line for each promise and task: whether it is kept."""
    for target in TARGETS:
        for line in lines:
            if line.method != target.method or not line.tuned:
                continue
            cost = statistics.mean(line.tuned)
            kept = cost <= target.cost and line.fewer >= target.fewer
            fewer = f"≥ {target.fewer:g} times fewer bytes at " if target.fewer > 1 else ""
            yield (
                f"- `{target.method}` on {line.task}: {fewer}≤ {100 * target.cost:g}% of the drop: "
                f"{'kept' if kept else 'missed'} ({line.fewer:.1f} times, {told(line.tuned)}%, "
                f"{len(line.tuned)} seeds)."
            )


def page(rows: list[Row]) -> str:
    """Return the results as a page."""
    lines = list(summary(rows))
    text = [
        "# What an exchange of gradients sends and costs",
        "",
        f"{PROCESSES} processes over gloo on the loopback device, torch {torch.__version__}, each "
        "task's own recipe. Bytes are those that one process sends for gradients and weights, "
        "counted at the collectives, over the whole run with its uncompressed start. Processor "
        "time is that of one process, with setting up and two evaluations. Loss cost: beside whole "
        "gradients of the same seed, in percent of their drop; the mean over the seeds, and the "
        "range. Own rate: both at the task's rate. Tuned: each at its own multiple of that, from a "
        f"grid with seed {SEEDS[0]} (second table) whose {FINALS} best were tried with all seeds; "
        "the lowest mean loss decides; of whole gradients all were, so that a cost errs to the high "
        "side. Written by "
        "`python -m benchmarks.scale exchange`.",
        "",
        "| task | compress | bytes an update | fewer | processor time, ms | cost at own rate, % "
        "| seeds | tuned rate | cost, tuned, % | seeds | accuracy, tuned |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    text += [
        f"| {r.task} | `{r.method}` | {r.bytes:,.0f} | {r.fewer:.1f}× | {shown(r.cpu_ms, 1)} "
        f"| {told(r.own)} | {len(r.own)} | {'–' if r.factor is None else f'×{r.factor:g}'} "
        f"| {told(r.tuned)} | {len(r.tuned)} | {shown(r.accuracy, 4)} |"
        for r in lines
    ]
    text += ["", *judged(lines), "", "## The grids", ""]
    text += [
        f"Validation loss at the end, with seed {SEEDS[0]}, at multiples of the task's own rate.",
        "",
    ]
    found = {(r.task, r.method): losses(rows, r.task, r.method) for r in lines}
    factors = sorted({factor for one in found.values() for factor in one})
    text += [
        f"| task | compress | {' | '.join(f'×{factor:g}' for factor in factors)} |",
        "|---|---|" + "---:|" * len(factors),
    ]
    for (task, method), one in found.items():
        cells = [
            "" if f not in one else f"{one[f]:.4f}" if math.isfinite(one[f]) else "diverged"
            for f in factors
        ]
        text.append(f"| {task} | `{method}` | {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


def main() -> None:
    """Measure in two processes, and write the page."""
    _, flags = arguments.read(__doc__, names="section", flags=["--page"])
    target = RESULTS / "scale_exchange.json"
    command = [sys.executable, "-m", "benchmarks.scale.exchange", str(target)]
    if "--page" not in flags and (code := launch(command, PROCESSES)):
        sys.exit(code)
    text = page(read(target))
    (RESULTS / "scale_exchange.md").write_text(text)
    print(text)


if __name__ == "__main__":
    work(Path(arguments.read(__doc__, names="target")[0][0]))
