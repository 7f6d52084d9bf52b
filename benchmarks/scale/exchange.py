"""What each way to exchange gradients sends and costs: two processes, beside whole gradients.

    python -m benchmarks.scale exchange

Each is tried at three rates: the task's own, the one that is tuned for whole gradients, and the one
that is tuned for it. Tuned is the multiple of the task's rate with the lowest mean loss over the
seeds, among steps of two; they are tried until the best has a worse one on both sides. Bytes are
counted at the collectives of one process. The loss cost is the validation loss at the end minus
that with whole gradients, of the same seed, at their own tuned rate in the last two cases, as a
share of the latter's drop. A rate is chosen for the least of several noisy means, so that its own
mean flatters it: what is promised is judged with five more seeds, which chose nothing.

The results go to benchmarks/results/scale_exchange.json and .md; what the former holds is not
measured again, and a benchmark that is interrupted goes on there. `--page` writes the page of what
is there.
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
SEEDS, FRESH, PROCESSES = (0, 1, 2), (3, 4, 5, 6, 7), 2
FIRST, STEP, BOUNDS = 4.0, 2.0, (1 / 16, 64.0)
"""The first multiple of a task's rate that is tried for whole gradients, the factor between two
neighbours, and the smallest and largest multiple."""

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
    """What is promised of a method at its tuned rate, on every task, with fresh seeds.

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
    for task, method, factor, seeds in wanted(rows):
        for seed in seeds:
            if (job := Job(task, method, seed, factor)) not in known:
                return job
    return None


def wanted(rows: list[Row]) -> Iterator[tuple[str, str, float, tuple[int, ...]]]:
    """Yield (task, method, multiple of the rate, seeds) in the order in which they are measured."""
    main, others = METHODS[:3], METHODS[3:]
    for task in TASKS:
        for method in main:
            yield from tuning(rows, task, method)
    for task in TASKS:
        for method in (WHOLE, *(target.method for target in TARGETS)):
            yield task, method, tuned(rows, task, method) or FIRST, FRESH
    for own in (False, True):
        for task in TASKS:
            for method in METHODS:
                yield task, method, 1.0 if own else tuned(rows, task, WHOLE) or FIRST, SEEDS
    for method in others:
        for task in TASKS:
            yield from tuning(rows, task, method)


def tuning(
    rows: list[Row], task: str, method: str
) -> Iterator[tuple[str, str, float, tuple[int, ...]]]:
    """Yield what tells the best rate of a method on a task, as far as it is known yet."""
    first = tuned(rows, task, WHOLE) or FIRST
    factor = next_factor(means(rows, task, method), first)
    if factor is not None:
        yield task, method, factor, SEEDS


def next_factor(found: dict[float, float], first: float) -> float | None:
    """Return the multiple to try next, given the losses at those that were; None at the end.

    >>> next_factor({1.0: 0.5}, 4.0), next_factor({1.0: 0.5, 4.0: 0.3}, 4.0)
    (4.0, 2.0)
    >>> next_factor({2.0: 0.4, 4.0: 0.3}, 4.0), next_factor({2.0: 0.4, 4.0: 0.3, 8.0: 0.3}, 4.0)
    (8.0, None)
    """
    if first not in found:
        return first
    best = min(found, key=found.__getitem__)
    beside = [f for f in (best / STEP, best * STEP) if BOUNDS[0] <= f <= BOUNDS[1]]
    return next((f for f in beside if f not in found), None)


def means(rows: list[Row], task: str, method: str) -> dict[float, float]:
    """Return the mean loss at each multiple of the rate that was tried with all seeds, in order."""
    found: dict[float, list[float]] = {}
    for row in rows:
        if (row["task"], row["method"]) == (task, method) and row["seed"] in SEEDS:
            found.setdefault(row["factor"], []).append(row["loss"])
    whole = {f: statistics.mean(each) for f, each in found.items() if len(each) == len(SEEDS)}
    return dict(sorted(whole.items()))


def tuned(rows: list[Row], task: str, method: str) -> float | None:
    """Return the multiple of the rate with the lowest mean loss; None before it is known."""
    found = means(rows, task, method)
    first = FIRST if method == WHOLE else tuned(rows, task, WHOLE)
    if first is None or next_factor(found, first) is not None:
        return None
    return min(found, key=found.__getitem__)


# ---- the page ----------------------------------------------------------------------------------


def costs(
    rows: list[Row],
    task: str,
    method: str,
    factors: tuple[float, float],
    seeds: tuple[int, ...] = SEEDS,
) -> list[float]:
    """Return the loss cost for each seed, as a share of the drop with whole gradients.

    Args:
        rows: What was measured.
        task: The task.
        method: The recipe's `compress`.
        factors: The multiples of the rate of this method and of whole gradients.
        seeds: The seeds that count.
    """
    of = {
        (row["method"], row["factor"], row["seed"]): row for row in rows if row["task"] == task
    }  # fmt: skip
    found = []
    for seed in seeds:
        own, whole = of.get((method, factors[0], seed)), of.get((WHOLE, factors[1], seed))
        if own is not None and whole is not None:
            found.append((own["loss"] - whole["loss"]) / (whole["untrained"] - whole["loss"]))
    return found


def at_own(rows: list[Row], task: str, method: str, seeds: tuple[int, ...]) -> list[float]:
    """Return the loss cost for each seed, each way at its tuned rate; empty before it is known."""
    factor, base = tuned(rows, task, method), tuned(rows, task, WHOLE)
    if factor is None or base is None:
        return []
    return costs(rows, task, method, (factor, base), seeds)


class Line(NamedTuple):
    """One line of the table: a method on a task, over the seeds.

    Attributes:
        task: The task.
        method: The recipe's `compress`.
        bytes: Bytes that one process sends for an update.
        fewer: How many times fewer than with whole gradients.
        cpu_ms: Processor time of one process for an update.
        own: The loss costs at the task's own rate.
        whole: The loss costs at the rate that is tuned for whole gradients.
        factor: The rate that is tuned for the method, as a multiple; None before it is known.
        tuned: The loss costs at it.
        fresh: The loss costs at it with the seeds that chose nothing.
        accuracy: The mean accuracy at it.
    """

    task: str
    method: str
    bytes: float
    fewer: float
    cpu_ms: float
    own: list[float]
    whole: list[float]
    factor: float | None
    tuned: list[float]
    fresh: list[float]
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
            times = [row["cpu_ms"] for row in own if row["cpu_ms"] is not None]
            reached = [row["accuracy"] for row in own if row["factor"] == factor]
            yield Line(
                task,
                method,
                bytes=own[0]["bytes"] / own[0]["steps"],
                fewer=whole[0]["bytes"] / own[0]["bytes"],
                cpu_ms=statistics.median(times) if times else math.nan,
                own=costs(rows, task, method, (1.0, 1.0)),
                whole=[] if base is None else costs(rows, task, method, (base, base)),
                factor=factor,
                tuned=at_own(rows, task, method, SEEDS),
                fresh=at_own(rows, task, method, FRESH),
                accuracy=statistics.mean(reached) if reached else math.nan,
            )


def told(found: list[float], seeds: int = len(SEEDS)) -> str:
    """Return loss costs in percent: the mean and the range, or the number of seeds if not all.

    >>> told([0.001, 0.002, 0.003]), told([0.002]), told([])
    ('0.20 (0.10 to 0.30)', '0.20 (1 of 3 seeds)', '–')
    """
    if not found:
        return "–"
    mean = f"{100 * statistics.mean(found):.2f}"
    if len(found) < seeds:
        return f"{mean} ({len(found)} of {seeds} seeds)"
    return f"{mean} ({100 * min(found):.2f} to {100 * max(found):.2f})"


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
            if line.method != target.method or len(line.fresh) < len(FRESH):
                continue
            cost = statistics.mean(line.fresh)
            error = statistics.stdev(line.fresh) / math.sqrt(len(line.fresh))
            kept = cost <= target.cost and line.fewer >= target.fewer
            fewer = f"≥ {target.fewer:g} times fewer bytes at " if target.fewer > 1 else ""
            found = f"{line.fewer:.1f} times, {told(line.fresh, len(FRESH))}%"
            yield (
                f"- `{target.method}` on {line.task}: {fewer}≤ {100 * target.cost:g}% of the drop: "
                f"{'kept' if kept else 'missed'} ({found}, standard error {100 * error:.2f}%)."
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
        "gradients of the same seed, in percent of their drop; the mean over "
        f"{len(SEEDS)} seeds, and the range. Own rate: both at the task's rate. Rate of whole: "
        "both at the rate that is tuned for whole gradients. Tuned rate: each at its own. Tuned is "
        "the multiple of the task's rate with the lowest mean loss (second table), with worse ones "
        f"beside it. Fresh seeds: the same at the tuned rates, with {len(FRESH)} seeds that chose "
        "none of them; what is promised is judged by these. `fp16` and `bf16` only round: what "
        "they differ by shows how much of a cost is chance. A dash: not measured. Written "
        "by `python -m benchmarks.scale exchange`.",
        "",
        "| task | compress | bytes an update | fewer | processor time, ms | own rate, % "
        "| rate of whole, % | tuned rate | tuned rate, % | fresh seeds, % "
        "| accuracy there |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    text += [
        f"| {r.task} | `{r.method}` | {r.bytes:,.0f} | {r.fewer:.1f}× | {shown(r.cpu_ms, 1)} "
        f"| {told(r.own)} | {told(r.whole)} | {'–' if r.factor is None else f'×{r.factor:g}'} "
        f"| {told(r.tuned)} | {told(r.fresh, len(FRESH))} | {shown(r.accuracy, 4)} |"
        for r in lines
    ]
    text += ["", *judged(lines), "", *grids(rows, lines)]
    return "\n".join(text) + "\n"


def grids(rows: list[Row], lines: list[Line]) -> Iterator[str]:
    """Yield the lines of the second table: the losses at each multiple of the rate."""
    found = {(r.task, r.method): means(rows, r.task, r.method) for r in lines}
    factors = sorted({factor for one in found.values() for factor in one})
    yield f"The mean validation loss at the end, over {len(SEEDS)} seeds, by the rate:"
    yield ""
    yield f"| task | compress | {' | '.join(f'×{factor:g}' for factor in factors)} |"
    yield "|---|---|" + "---:|" * len(factors)
    for (task, method), one in found.items():
        cells = [
            "" if f not in one else f"{one[f]:.4f}" if math.isfinite(one[f]) else "diverged"
            for f in factors
        ]
        if one:
            yield f"| {task} | `{method}` | {' | '.join(cells)} |"


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
