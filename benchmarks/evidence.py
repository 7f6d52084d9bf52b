"""What a pause shows of a run, by kind of evidence: 25 rates x 3 seeds of every fresh task.

    python -m benchmarks.evidence record [--workers N] [--out DIR] [--seconds S] [TASK ...]

Each run is the plain loop's, with one thread. At every share of `SHARES` these are kept: the
validation loss and the metric of the weights as they stand, the mean training loss since the
share before, and the distance from the first weights. At every one of `PAUSES` also:

- the validation loss of the weights as they stand with the statistics of batch normalisation
  renewed, and of exponential means of the weights over .02, .06 and .1 of the run with renewed
  statistics, and over .06 without;
- the metric of the mean over .02;
- the validation loss of 16 slices, of the weights as they stand and of the mean over .02.

A run is one file under DIR, so that an interrupted recording goes on; `collect` joins the runs
of a task into benchmarks/results/evidence/TASK.safetensors.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Iterable, Sequence
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import safetensors.numpy
import torch
from torch import Tensor, nn

from benchmarks.fresh import TASKS
from etude import optimizers
from etude.recipe import Recipe
from etude.record import Evaluation
from etude.tasks.task import Task
from etude.training.evaluation.batch_norm_statistics import renew_statistics
from etude.training.evaluation.evaluate import evaluate
from etude.training.request import AdvanceRequest
from etude.training.run import Run
from etude.training.state.state import RunState
from etude.trials.baseline import constant_score

DATA = Path(__file__).parent / "results" / "evidence"
UNITS = Path(__file__).parent / "fresh" / "units"
SEEDS = (0, 1, 2)
COUNT, SPACING = 25, 0.2
SHARES = (1 / 32, 1 / 16, 3 / 32, *(i / 16 for i in range(2, 17)))
WINDOWS = {"mean02": 0.02, "mean06": 0.06, "mean10": 0.1}
PAUSES = tuple(i / 16 for i in (1, 2, 3, 4, 6, 8, 10, 12, 14, 16))
KINDS = ("raw", "renewed", *WINDOWS, "mean06_stale")
SCALARS = (*KINDS, "metric", "metric_mean02", "train", "moved")
SLICES = 16
BATCHES = 20
"""Training batches that statistics are renewed from."""


@cache
def get(name: str) -> Task:
    """Return a fresh task, built once in a process."""
    return TASKS[name]()


def rates(name: str) -> list[float]:
    """Return the rates of a task's grid, ascending: 4.8 decades about the optimizer's own rate."""
    optimizer = Recipe(**get(name).defaults).optimizer
    lowest = round(optimizers.get(optimizer.name).centre - 3.2, 1)
    return [10 ** (lowest + SPACING * i) for i in range(COUNT)]


@cache
def constant(name: str, seed: int) -> float:
    """Return the validation loss of the best constant output; NaN where there is none."""
    task = get(name)
    found = constant_score(Run(task, Recipe(**{**task.defaults, "seed": seed})))
    return math.nan if found is None else found.loss


class Mean:
    """A mean of the weights: exponential over a window, plain until the window is full.

    Args:
        parameters: Whose mean it is; nothing is read before the first update.
        window: In updates.
    """

    def __init__(self, parameters: Sequence[Tensor], window: float) -> None:
        self.values = [torch.zeros_like(p) for p in parameters]
        self.window, self.count = window, 0

    def see(self, parameters: Sequence[Tensor]) -> None:
        """Add the weights as they are."""
        self.count += 1
        torch._foreach_lerp_(self.values, list(parameters), max(1 / self.count, 1 / self.window))


class Watch:
    """All means of a run's weights, and their validation losses."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.weights = [p for p in run.model.parameters() if p.requires_grad]
        self.first = [p.detach().clone() for p in self.weights]
        length = run.length
        self.means = {k: Mean(self.weights, max(1.0, w * length)) for k, w in WINDOWS.items()}

    def see(self, state: RunState, step: int) -> None:
        """Add the weights as they are."""
        with torch.no_grad():
            for mean in self.means.values():
                mean.see(self.weights)

    def judge(self, values: Sequence[Tensor] | None, renew: bool) -> Evaluation:
        """Return the evaluation of a copy of the model at other weights."""
        run = self.run
        model = deepcopy(run.model)
        if values is not None:
            trained = [p for p in model.parameters() if p.requires_grad]
            with torch.no_grad():
                for p, value in zip(trained, values, strict=True):
                    p.copy_(value)
        if renew:
            renew_statistics(run.task, model, run.batch_size, run.autocast, BATCHES)
        return evaluate(run.task, model, batch_size=max(128, 2 * run.batch_size))

    def look(self, raw: Evaluation, share: float) -> dict[str, Any]:
        """Return the losses by kind, the metrics, and the slices."""
        away = [p.detach() - q for p, q in zip(self.weights, self.first, strict=True)]
        seen = {
            "raw": raw.loss,
            "metric": _number(raw.metric),
            "moved": float(torch.nn.utils.get_total_norm(away)),
        }
        if share not in PAUSES:
            return seen
        norms = any(isinstance(m, nn.modules.batchnorm._NormBase) for m in self.run.model.modules())
        found = {"raw": raw, "renewed": self.judge(None, True) if norms else raw}
        for kind, mean in self.means.items():
            found[kind] = self.judge(mean.values, norms)
        found["mean06_stale"] = (
            self.judge(self.means["mean06"].values, False) if norms else found["mean06"]
        )
        return {
            **seen,
            **{kind: evaluation.loss for kind, evaluation in found.items()},
            "metric_mean02": _number(found["mean02"].metric),
            "slices": np.stack([slices(raw), slices(found["mean02"])]),
        }


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def slices(evaluation: Evaluation) -> np.ndarray:
    """Return the losses of 16 slices; NaN where there are fewer."""
    parts = np.asarray(evaluation.parts, dtype=np.float64)
    if len(parts) < SLICES:
        return np.concatenate([parts, np.full(SLICES - len(parts), np.nan)])
    return np.array([part.mean() for part in np.array_split(parts, SLICES)])


def trace(unit: tuple[str, int, float]) -> dict[str, np.ndarray]:
    """Train one task at one rate with one seed, and return what was seen."""
    name, seed, rate = unit
    torch.set_num_threads(1)
    task = get(name)
    started = time.process_time()
    run = Run(task, Recipe(**{**task.defaults, "lr": rate, "seed": seed}))
    run.limit_threads(1)
    watch = Watch(run)
    first = run.evaluate()
    kept = {key: np.full(len(SHARES), np.nan) for key in SCALARS}
    parts = np.full((len(SHARES), 2, SLICES), np.nan)
    for place, share in enumerate(SHARES):
        before = run.step
        run.advance(AdvanceRequest(math.floor(run.length * share), on_step=watch.see))
        if run.diverged:
            break
        raw = run.evaluate()
        if not math.isfinite(raw.loss):
            break
        found = watch.look(raw, share)
        parts[place] = found.pop("slices", np.nan)
        for key, value in found.items():
            kept[key][place] = value
        kept["train"][place] = np.mean(run.series["loss"][before:])
    about = [rate, seed, first.loss, _number(first.metric), run.step, run.length]
    about += [constant(name, seed), time.process_time() - started]
    return {**kept, "parts": parts, "first": slices(first), "about": np.array(about)}


def keep(out: Path, unit: tuple[str, int, float]) -> tuple[str, float]:
    """Do one run, unless its file is there, and write it; return its name and seconds."""
    name, seed, rate = unit
    path = out / name / f"{seed}-{rate:.6g}.npz"
    if not path.exists():
        found = trace(unit)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path.with_suffix(".part.npz"), **found)  # type: ignore[arg-type]
        path.with_suffix(".part.npz").rename(path)
        return name, float(found["about"][-1])
    return name, 0.0


def record(names: Iterable[str], out: Path, workers: int | None, limit: float) -> None:
    """Do every run whose file is missing, for as long as the limit allows."""
    end = time.monotonic() + limit
    units = [(name, seed, rate) for seed in SEEDS for name in names for rate in rates(name)]
    spent: dict[str, float] = {}
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        for name, seconds in pool.imap_unordered(partial(keep, out), units):
            spent[name] = spent.get(name, 0.0) + seconds
            if time.monotonic() > end:
                print("out of time")
                pool.terminate()
                break
    print({name: round(seconds) for name, seconds in spent.items()}, flush=True)


def collect(names: Iterable[str], out: Path) -> None:
    """Join the runs of each task that has all of them."""
    DATA.mkdir(parents=True, exist_ok=True)
    for name in names:
        grid = rates(name)
        paths = [out / name / f"{s}-{r:.6g}.npz" for s in SEEDS for r in grid]
        if missing := [path for path in paths if not path.exists()]:
            print(f"{name}: {len(missing)} of {len(paths)} runs are missing")
            continue
        runs = [dict(np.load(path)) for path in paths]
        shape = (len(SEEDS), len(grid))
        joined = {
            key: np.stack([run[key] for run in runs]).reshape(*shape, *runs[0][key].shape)
            for key in runs[0]
        }
        # By (pause, seed, rate, kind, slice). Contiguous: safetensors writes memory as it lies.
        joined["parts"] = np.stack([joined["parts"][:, :, SHARES.index(s)] for s in PAUSES])
        tensors = {
            key: np.ascontiguousarray(value, dtype=np.float32) for key, value in joined.items()
        }
        about = {
            "task": name,
            "shares": json.dumps(SHARES),
            "machine": f"Python {platform.python_version()}, torch {torch.__version__}",
        }
        safetensors.numpy.save_file(tensors, DATA / f"{name}.safetensors", about)
        print(name, flush=True)


def main(arguments: Sequence[str]) -> None:
    """Record or collect."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["record", "collect"])
    parser.add_argument("tasks", nargs="*")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--out", type=Path, default=UNITS)
    parser.add_argument("--seconds", type=float, default=math.inf)
    chosen = parser.parse_args(arguments)
    names = chosen.tasks or sorted(TASKS)
    if chosen.what == "record":
        record(names, chosen.out, chosen.workers, chosen.seconds)
    else:
        collect(names, chosen.out)


if __name__ == "__main__":
    main(sys.argv[1:])
