"""The oracle: every bundled task at 25 rates and 3 seeds, what `benchmarks.regret` is held against.

    python -m benchmarks.oracle [TASK ...]

Hours of one core's work, kept as data in benchmarks/results/oracle: one JSON file per task, and a
task whose file is there is left alone. Every run is the plain loop's, with one thread. Beside the
validation loss of the weights themselves two others are kept: of the mean of the weights since
the mark before, which costs no gradient, and after a cooldown of 1/64 of the run, linear to zero,
that is thrown away. `benchmarks.concordance` says which of the three foretells the end best.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import time
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from benchmarks import arguments, contest
from etude.recipe import Recipe
from etude.schedules import constant, linear
from etude.training.evaluation.evaluate import evaluate
from etude.training.request import AdvanceRequest
from etude.training.run import Run
from etude.training.state.state import RunState

DATA = Path(__file__).parent / "results" / "oracle"
SEEDS = (0, 1, 2)
COUNT, SPACING = 25, 0.2
LOWEST = {"adamw": -4.8, "rmsprop": -4.8, "sgd": -3.8}
"""log10 of the lowest rate, by optimizer: three decades and more on both sides of the usual."""

SHARES = (1 / 32, 1 / 16, 3 / 32, *(i / 16 for i in range(2, 17)))
"""Where the validation loss is kept, in shares of the run."""

BRANCHES = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Where a cooldown branches off."""

BRANCH = 1 / 64
"""Its length."""


def rates(name: str) -> list[float]:
    """Return the rates of a task's grid, ascending."""
    optimizer = Recipe(**contest.get(name).defaults).optimizer.name
    return [10 ** (LOWEST[optimizer] + SPACING * i) for i in range(COUNT)]


class Mean:
    """The mean of a model's weights over the updates since it was last taken."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.sums = [torch.zeros_like(p) for p in run.model.parameters()]
        self.count = 0

    def see(self, state: RunState, step: int) -> None:
        """Add the weights as they are."""
        torch._foreach_add_(self.sums, list(state.model.parameters()))
        self.count += 1

    def loss(self) -> float:
        """Return the mean weights' validation loss, and begin anew."""
        model = deepcopy(self.run.model)
        with torch.no_grad():
            for p, total in zip(model.parameters(), self.sums, strict=True):
                p.copy_(total / self.count)
        for total in self.sums:
            total.zero_()
        self.count = 0
        run = self.run
        return evaluate(run.task, model, batch_size=max(128, 2 * run.batch_size)).loss


def cooled(run: Run) -> float:
    """Return the validation loss after a short cooldown from where a run stands."""
    branch = Run(run.task, run.recipe)
    branch.limit_threads(run.threads)
    branch.load_state_dict(deepcopy(run.state_dict()))
    start, length = run.step, max(2, round(BRANCH * run.length))
    top = float(run.state.lr_schedule(start))
    branch.follow(top * (constant(length=start) >> linear(length)))
    branch.advance(start + length)
    return math.inf if branch.diverged else branch.evaluate().loss


def trace(unit: tuple[str, int, float]) -> dict[str, Any]:
    """Train one task at one rate with one seed, and return what was seen."""
    name, seed, rate = unit
    torch.set_num_threads(1)
    task = contest.get(name)
    run = Run(task, Recipe(**{**task.defaults, "lr": rate, "seed": seed}))
    run.limit_threads(1)
    mean = Mean(run)
    started = time.process_time()
    first = run.evaluate()
    row: dict[str, Any] = {"lr": rate, "seed": seed, "untrained": first.loss}
    seen: dict[str, list[Any]] = {"loss": [], "metric": [], "mean": [], "train": []}
    branches: list[float] = []
    for share in SHARES:
        before = run.step
        run.advance(AdvanceRequest(math.floor(run.length * share), on_step=mean.see))
        if run.diverged:
            break
        look = run.evaluate()
        if not math.isfinite(look.loss):
            break
        seen["loss"].append(look.loss)
        seen["metric"].append(look.metric)
        seen["mean"].append(mean.loss())
        lately = run.series["loss"][before:]
        seen["train"].append(sum(lately) / len(lately))
        if share in BRANCHES:
            branches.append(cooled(run))
    row |= {**seen, "cooled": branches, "steps": run.step, "length": run.length}
    row["seconds"] = time.process_time() - started
    return row


def shorter(value: Any) -> Any:
    """Return what JSON holds of a value: seven digits of a number, null where it is not finite."""
    if isinstance(value, dict):
        return {key: shorter(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [shorter(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    return value


def write(path: Path, name: str, rows: list[dict[str, Any]]) -> None:
    """Write a task's file: a line for every run."""
    lines = ",\n".join(json.dumps(shorter(row), separators=(",", ":")) for row in rows)
    head = f'"task": {json.dumps(name)}, "shares": {json.dumps(SHARES)}'
    path.write_text(f'{{{head}, "runs": [\n{lines}\n]}}\n')


def make(names: Iterable[str]) -> None:
    """Fill in the files that are missing."""
    DATA.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool() as pool:
        for name in names:
            path = DATA / f"{name}.json"
            if path.exists():
                continue
            units = [(name, seed, rate) for seed in SEEDS for rate in rates(name)]
            rows = pool.map(trace, units, chunksize=1)
            write(path, name, rows)
            print(name, f"{sum(row['seconds'] for row in rows):.0f} s", flush=True)


if __name__ == "__main__":
    make(arguments.read(__doc__, names="task")[0] or contest.NAMES)
