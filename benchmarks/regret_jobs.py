"""What `benchmarks.regret` trains: tunings, range tests, optimizers without tuning, single rates.

Results are kept one by one in benchmarks/results/regret.json, so that an interrupted run goes on;
what is there is left alone.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import platform
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from benchmarks import contest, finders
from etude import Recipe, train, tune
from etude.files import write_text
from etude.record import Status
from etude.tasks.task import Task
from etude.training.clock import clock_of

RESULTS = Path(__file__).parent / "results"
KEPT = RESULTS / "regret.json"
SEEDS = (0, 1, 2)
BUDGETS = (3.0, 1.5, 1.3, 10.0)
WORKERS = 2

SEARCH = 4
"""The number of the search, kept with every tuning: raise it when the search changes what it
chooses, and the tunings are trained anew."""

FREE: dict[str, dict[str, Any]] = {
    "Prodigy": {"optimizer": "prodigy", "lr": 1.0},
    "Schedule-Free AdamW": {
        "optimizer": "schedulefree_adamw",
        "lr": 2.5e-3,
        "schedule": "warmup('5%') >> constant()",
    },
}
"""Optimizers that promise to need no tuning, at their packages' own rates: Prodigy on the
recipe's schedule, Schedule-Free after a warmup alone, as its authors advise."""


@dataclass(frozen=True)
class Job:
    """Something to train: a tuning, a ramp, an optimizer without tuning, or one rate.

    Attributes:
        kind: 'tune', 'ramp', 'free' or 'rate'.
        what: The budget, the ramp, the optimizer, or the rate, as text.
        task: Of the contest.
        seed: The recipe's.
    """

    kind: str
    what: str
    task: str
    seed: int

    @property
    def key(self) -> str:
        """What it is kept under."""
        return f"{self.kind} {self.what}|{self.task}|{self.seed}"


def do(job: Job) -> tuple[Job, dict[str, Any]]:
    """Do a job in this process, with one thread."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    task = contest.get(job.task)
    recipe = Recipe(**{**task.defaults, "seed": job.seed})
    if job.kind == "tune":
        found = tune(task, recipe, float(job.what), engine="loop", progress=False)
        done = _ended(found.record.status, found.record.valid_loss)
        content = {"lr": found.lr, "loss": done, "cost": found.cost, "outcome": found.outcome}
        content["search"] = SEARCH
    elif job.kind == "ramp":
        content = ramp(task, recipe, job.what)
    else:
        changes = FREE[job.what] if job.kind == "free" else {"lr": float(job.what)}
        record = train(task, recipe.replace(**changes), evaluations=1)
        cost = record.cost.steps / record.length
        content = {"loss": _ended(record.status, record.valid_loss), "cost": cost}
    return job, {**content, "seconds": round(time.perf_counter() - started, 2)}


def _ended(status: Status, loss: float) -> float | None:
    return loss if status == Status.FINISHED and math.isfinite(loss) else None


def ramp(task: Task, recipe: Recipe, name: str) -> dict[str, Any]:
    """Return what a range test suggests, and its cost in full runs."""
    length = clock_of(task, recipe).horizon
    found = finders.RAMPS[name](finders.Start.of(task, recipe))
    return {
        "suggested": {way: one.lr for way, one in found.items()},
        "cost": next(iter(found.values())).updates / length,
    }


def jobs(kept: dict[str, Any]) -> list[Job]:
    """Return everything that is to be trained, in order.

    On the kin only ramps and optimizers without tuning are trained; the rest is read off the
    table. What a ramp suggests is trained once it is known.
    """
    every = contest.NAMES
    plan = [Job("ramp", name, t, s) for name in finders.RAMPS for t in every for s in SEEDS]
    plan += [Job("free", name, t, s) for name in FREE for t in every for s in SEEDS]
    plan += [Job("tune", f"{b:g}", t, s) for b in BUDGETS for t in contest.BUNDLED for s in SEEDS]
    for job in [job for job in plan if job.kind == "ramp" and job.task in contest.BUNDLED]:
        suggested = kept.get(job.key, {}).get("suggested", {})
        plan += [rate_job(lr, job.task, job.seed) for lr in suggested.values() if lr is not None]
    return [job for job in dict.fromkeys(plan) if current(kept.get(job.key)) is None]


def current(run: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return what was kept of a job; None if it is a tuning by an older search."""
    older = run is not None and "outcome" in run and run.get("search") != SEARCH
    return None if older else run


def rate_job(lr: float, task: str, seed: int) -> Job:
    """Return the job of one full run at a rate."""
    return Job("rate", f"{lr:.6g}", task, seed)


def read() -> dict[str, Any]:
    """Return what is there already."""
    return json.loads(KEPT.read_text()) if KEPT.exists() else {"runs": {}}


def work() -> None:
    """Do what is missing, and keep each result as it comes."""
    content = read()
    codes = [code for code in content.get("code", "").split(", ") if code]
    content["code"] = ", ".join(dict.fromkeys([*codes, version()]))
    content["machine"] = (
        f"{os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"
    )
    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        while missing := jobs(content["runs"]):
            ramps = [job for job in missing if job.kind == "ramp"]
            rates_follow = bool(ramps)
            now = [job for job in missing if not (rates_follow and _late(job))]
            for job, found in pool.imap_unordered(do, now):
                content["runs"][job.key] = found
                write_text(KEPT, dumped(content))
                print(job.key, found, flush=True)


def _late(job: Job) -> bool:
    """Whether a job waits until all rates that ramps suggest are known."""
    return job.kind == "rate"


def dumped(content: dict[str, Any]) -> str:
    """Return the kept results as JSON, a line for each."""
    rows = content["runs"]
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(rows[key])}" for key in sorted(rows))
    head = "".join(f'"{k}": {json.dumps(v)},\n' for k, v in content.items() if k != "runs")
    return f'{{{head}"runs": {{\n{lines}\n}}}}\n'


def version() -> str:
    """Return the commit of the code that is run, empty outside a checkout."""
    asked = ["git", "log", "-1", "--format=%h", "--", "src/etude"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
