"""What a schedule costs: ours against torch's schedulers, transformers' lambdas and ignite's.

One run measures all of them in turn, several times over, and reports the best of each:

    python -m benchmarks.schedules

The results go to benchmarks/results/schedules.json and schedules.md.
"""

from __future__ import annotations

import json
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from ignite.handlers import param_scheduler as ignite
from rich.console import Console
from rich.table import Table
from torch.optim import lr_scheduler
from transformers import optimization as transformers

from benchmarks import arguments
from etude.interop.torch import Scheduler
from etude.schedules import Schedule, cosine, warmup

RESULTS = Path(__file__).parent / "results"
GROUPS = (1, 10, 100)
ROUNDS = 21
HORIZON = 10_000_000
"""Longer than any measurement, so that no schedule reaches its end while it is measured."""


class Row(NamedTuple):
    """One measured figure."""

    task: str
    groups: int
    peer: str
    seconds: float


def sgd(groups: int) -> torch.optim.Optimizer:
    """Return an optimizer whose groups have rates of their own."""
    return torch.optim.SGD(
        [{"params": [torch.zeros(1)], "lr": 0.1 + 0.001 * i} for i in range(groups)], lr=0.1
    )


def writing(groups: int) -> Callable[[], None]:
    """Return the floor: a loop that writes one value into every group."""
    parameter_groups = sgd(groups).param_groups

    def write() -> None:
        for group in parameter_groups:
            group["lr"] = 0.1

    return write


def cosines(groups: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield the update of one training step for a cosine, by peer."""
    T = HORIZON
    yield "writing alone", writing(groups)
    yield "etude lr=", Scheduler(sgd(groups), lr=0.1 * cosine(T)).step
    yield "etude scale=", Scheduler(sgd(groups), scale=cosine(T)).step
    yield "torch CosineAnnealingLR", lr_scheduler.CosineAnnealingLR(sgd(groups), T).step
    made = transformers.get_cosine_schedule_with_warmup(sgd(groups), 0, T)
    yield "transformers lambda", made.step
    handler = ignite.CosineAnnealingScheduler(sgd(groups), "lr", 0.1, 0.0, T)
    yield "ignite CosineAnnealingScheduler", lambda: handler(None)


def warmups(groups: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield the same for a warmup and then a cosine; all have passed the warmup."""
    T, W = HORIZON, 10
    s: Schedule = warmup(W) >> cosine(T)
    yield "writing alone", writing(groups)
    yield "etude lr=", Scheduler(sgd(groups), lr=0.1 * s).step
    yield "etude scale=", Scheduler(sgd(groups), scale=s).step
    optimizer = sgd(groups)
    rise = lr_scheduler.LinearLR(optimizer, 0.01, total_iters=W)
    fall = lr_scheduler.CosineAnnealingLR(optimizer, T)
    yield "torch SequentialLR", lr_scheduler.SequentialLR(optimizer, [rise, fall], [W]).step
    made = transformers.get_cosine_schedule_with_warmup(sgd(groups), W, T)
    yield "transformers lambda", made.step
    inner = ignite.CosineAnnealingScheduler(sgd(groups), "lr", 0.1, 0.0, T)
    handler = ignite.create_lr_scheduler_with_warmup(inner, 0.0, W, 0.1)
    yield "ignite with warmup", lambda: handler(None)


def timed(call: Callable[[], Any], calls: int) -> float:
    """Return the seconds of one call, over one batch of calls."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def updates() -> Iterator[Row]:
    """Measure the update of one training step."""
    for task, candidates in (("cosine", cosines), ("warmup >> cosine", warmups)):
        for groups in GROUPS:
            calls = 20_000 // groups
            contenders = list(candidates(groups))
            found: dict[str, list[float]] = {name: [] for name, _ in contenders}
            for _ in range(ROUNDS):  # in turn, so that a busy machine slows all alike
                for name, call in contenders:
                    found[name].append(timed(call, calls))
            for name, seconds in found.items():
                yield Row(task, groups, name, min(seconds))


def million() -> Iterator[Row]:
    """Measure a million values: in one call, and by stepping; in turn, as the updates."""
    count = 1_000_000
    steps, tensor = np.arange(count), torch.arange(count)
    s = 0.1 * (warmup(10_000) >> cosine(count - 10_000))
    contenders: list[tuple[str, Callable[[], Any], int]] = [
        ("etude, one call", lambda: s(steps), 1),
        ("etude, one call on a torch tensor", lambda: s(tensor), 1),
    ]
    for name, call in warmups(1):
        if name not in ("writing alone", "etude scale="):
            contenders.append((f"{name.removesuffix(' lr=')}, stepping", call, count))
    found: dict[str, list[float]] = {name: [] for name, _, _ in contenders}
    for _ in range(3):
        for name, call, calls in contenders:
            repeats = 20 if calls == 1 else 1  # one call is short enough to be disturbed
            found[name].append(min(timed(call, calls) for _ in range(repeats)) * calls)
    for name, seconds in found.items():
        yield Row("a million values", 1, name, min(seconds))


def seeking() -> Iterator[Row]:
    """Measure the way to step 10⁹; peers can only step there."""
    s = 0.1 * (warmup(10_000) >> cosine(2_000_000_000))
    scheduler = Scheduler(sgd(1), lr=s)
    yield Row(
        "seek step 10^9",
        1,
        "etude seek",
        min(timed(lambda: scheduler.seek(10**9), 2_000) for _ in range(5)),
    )
    yield Row(
        "seek step 10^9",
        1,
        "etude s(10**9)",
        min(timed(lambda: s(10**9), 20_000) for _ in range(5)),
    )


def machine() -> dict[str, Any]:
    """Describe the machine and the versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    names = ("torch", "transformers", "pytorch-ignite", "numpy")
    return {
        "cores": os.cpu_count(),
        "cpu": models[0] if models else platform.processor(),
        "python": platform.python_version(),
        **{name: version(name) for name in names},
    }


def ratios(rows: list[Row]) -> dict[str, float]:
    """Return our figures as shares of the peers', as the targets state them."""
    by = {(r.task, r.groups, r.peer): r.seconds for r in rows}
    found: dict[str, float] = {}
    for task, theirs in (
        ("cosine", "torch CosineAnnealingLR"),
        ("warmup >> cosine", "torch SequentialLR"),
    ):
        for groups in GROUPS:
            for ours in ("etude lr=", "etude scale="):
                share = by[task, groups, ours] / by[task, groups, theirs]
                found[f"{task}, {groups} groups, {ours} against torch"] = share
    stepping = by["a million values", 1, "torch SequentialLR, stepping"]
    found["a million values, stepping torch against one call"] = (
        stepping / by["a million values", 1, "etude, one call"]
    )
    own = by["a million values", 1, "etude, stepping"]
    found["a million values, stepping etude against one call"] = (
        own / by["a million values", 1, "etude, one call"]
    )
    return found


def shown(seconds: float) -> str:
    """Write a time with its unit."""
    if seconds >= 1.0:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.2f} µs"


def compared(rows: list[Row]) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield the rows of the table: the time, and its multiple of etude's."""
    for row in rows:
        group = [r for r in rows if (r.task, r.groups) == (row.task, row.groups)]
        ours = next(r.seconds for r in group if r.peer.startswith("etude"))
        yield row.task, str(row.groups), row.peer, shown(row.seconds), f"{row.seconds / ours:.2f}"


def report(rows: list[Row], console: Console) -> None:
    """Print the table, and write both files."""
    about, shares = machine(), ratios(rows)
    header = ("task", "groups", "scheduler", "time", "of etude's")
    table = Table(*header, title="Cost of one update of all groups, and of many values")
    for line in compared(rows):
        table.add_row(*line)
    console.print(table)
    for name, share in shares.items():
        console.print(f"{name}: {share:.3g}")
    RESULTS.mkdir(exist_ok=True)
    data = {"machine": about, "rows": [row._asdict() for row in rows], "ratios": shares}
    (RESULTS / "schedules.json").write_text(json.dumps(data, indent=1) + "\n")
    markdown = [
        "# Cost of schedules",
        "",
        ", ".join(f"{name} {value}" for name, value in about.items()) + ".",
        f"Best of {ROUNDS} rounds in turn. Written by `python -m benchmarks.schedules`.",
        "",
        f"| {' | '.join(header)} |",
        "|---|---:|---|---:|---:|",
        *(f"| {' | '.join(line)} |" for line in compared(rows)),
        "",
        "| ratio | |",
        "|---|---:|",
        *(f"| {name} | {share:.3g} |" for name, share in shares.items()),
    ]
    (RESULTS / "schedules.md").write_text("\n".join(markdown) + "\n")


def main() -> None:
    """Measure everything once."""
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch misses the calls of optimizer.step()
        rows = [*updates(), *million(), *seeking()]
    report(rows, Console())


if __name__ == "__main__":
    arguments.read(__doc__)
    main()
