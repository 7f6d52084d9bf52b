"""What Etude does on a CUDA device: the loop beside a bare one, tunings, watching, and stacks.

A tuning is measured against one training, with one process for each GPU where there are several.

    python -m benchmarks.cuda [FOLDER]

The results go to FOLDER, benchmarks/results if it is left out, as cuda.json and cuda.md.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import arguments, watch
from benchmarks.engines import LONG, RESULTS, on_a_gpu, runs_of
from benchmarks.loop import UPDATES, bare, timed
from benchmarks.watch_loop import NETWORKS
from etude import Recipe, train, tune
from etude.engines import Engine, PoolEngine
from etude.tasks.table import get

MEMBERS = (4, 16, 64, 128)
TASKS = ("digits-mlp", "digits-cnn", "digits-resnet", "digits-lstm")
ROUNDS, OBSERVED = 9, 160
WATCH_ROUNDS = 20


def waits(name: str) -> float:
    """Return how often the loop waits for the device, per update."""
    run = runs_of(get(name), 1, LONG, "cuda")[0]
    run.advance(16)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run.advance(16 + OBSERVED)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(w.message) for w in caught) / OBSERVED


def beside_bare(name: str) -> dict[str, Any]:
    """Return milliseconds of an update of the loop and of a bare loop on the device."""
    run = runs_of(get(name), 1, LONG, "cuda")[0]

    def library() -> None:
        run.advance(run.step + UPDATES)
        torch.cuda.synchronize()

    step, _ = bare(name, "cuda")

    def plain() -> None:
        step()
        torch.cuda.synchronize()

    library()
    plain()
    pairs = [(timed(library), timed(plain)) for _ in range(ROUNDS)]
    return {
        "task": name,
        "etude_ms": 1e3 * statistics.median(a for a, _ in pairs),
        "bare_ms": 1e3 * statistics.median(b for _, b in pairs),
        "ratio": statistics.median(a / b for a, b in pairs),
        "waits": waits(name),
    }


def tuned(name: str, device: str = "cuda") -> dict[str, Any]:
    """Return the seconds of one training, and of a tuning at 3 runs by each engine that can.

    The pool has one process for each GPU, so that it takes part only where there are several.
    """
    task, several = get(name), device == "cuda" and torch.cuda.device_count() > 1
    recipe = Recipe(**task.defaults)
    train(task, recipe.replace(steps=20), device=device)
    plain = seconds(lambda: train(task, recipe, device=device))
    engines: dict[str, Engine | str] = {"loop": "loop", "auto": "auto"}
    if several:
        engines["pool"] = PoolEngine(start="spawn")
    found = {
        name: seconds(partial(tune, task, recipe, 3.0, engine=one, device=device, progress=False))
        for name, one in engines.items()
    }
    return {"task": name, "gpus": torch.cuda.device_count(), "train_s": plain, "tune_s": found}


def seconds(go: Callable[[], Any]) -> float:
    """Return the seconds that something takes, the device's work included."""
    started = time.perf_counter()
    go()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def tuning_lines(rows: list[dict[str, Any]]) -> list[str]:
    """Return the lines of the tunings."""
    names = list(rows[0]["tune_s"])
    return [
        "",
        f"## A tuning at 3 runs, by the clock against one training (GPUs: {rows[0]['gpus']})",
        "",
        f"| task | one training, s | {' | '.join(names)} |",
        f"|---|---:|{'---:|' * len(names)}",
        *(
            f"| {r['task']} | {r['train_s']:.2f} | "
            + " | ".join(f"{r['tune_s'][name] / r['train_s']:.2f}×" for name in names)
            + " |"
            for r in rows
        ),
    ]


def loop_lines(rows: list[dict[str, Any]]) -> list[str]:
    """Return the lines of the loop."""
    return [
        "",
        "## The loop beside a bare one that reads every loss",
        "",
        "| task | etude, ms an update | bare, ms | ratio | waits for the device, an update |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {r['task']} | {r['etude_ms']:.3f} | {r['bare_ms']:.3f} | {r['ratio']:.2f} "
            f"| {r['waits']:.3f} |"
            for r in rows
        ),
    ]


def watch_lines(rows: list[dict[str, Any]]) -> list[str]:
    """Return the lines of watching."""
    return [
        "",
        "## A plain loop under `etude.watch`, against one without",
        "",
        f"{WATCH_ROUNDS} rounds, measured as in watch.md, but by the clock until the device is "
        "done.",
        "",
        *watch.HEADER,
        *(watch.row(r) for r in rows),
    ]


def stack_lines(rows: list[dict[str, Any]]) -> list[str]:
    """Return the lines of stacks."""
    return [
        "",
        "## Stacked members, updates a second against the loop (mlp 32)",
        "",
        "| members | loop/s | vmap | vmap compiled |",
        "|---:|---:|---:|---:|",
        *(
            f"| {r['members']} | {r['rates']['loop']:,.0f} "
            f"| {r['rates']['vmap'] / r['rates']['loop']:.1f}× "
            f"| {r['rates']['vmap compiled'] / r['rates']['loop']:.1f}× |"
            for r in rows
        ),
    ]


PARTS: dict[
    str,
    tuple[
        Callable[[Any], dict[str, Any]],
        tuple[Any, ...],
        Callable[[list[dict[str, Any]]], list[str]],
    ],
] = {
    "loop": (beside_bare, TASKS, loop_lines),
    "tunings": (tuned, TASKS, tuning_lines),
    "watch": (
        partial(watch.measure, device="cuda", rounds=WATCH_ROUNDS), tuple(NETWORKS), watch_lines
    ),
    "engines": (on_a_gpu, MEMBERS, stack_lines),
}  # fmt: skip
"""Name of a part -> what measures a row, of what, and what prints the rows."""


def text(result: dict[str, Any]) -> str:
    """Return the results as a page."""
    lines = [
        "# On a CUDA device",
        "",
        f"{result['device']}, torch {result['torch']}. Written by `python -m benchmarks.cuda`.",
    ]
    if "note" in result:
        lines += ["", result["note"]]
    for name, (_, _, print_rows) in PARTS.items():
        if result.get(name):
            lines += print_rows(result[name])
    return "\n".join(lines) + "\n"


def main(folder: Path) -> None:
    """Measure, print and write the results as they come."""
    if not torch.cuda.is_available():
        sys.exit("no CUDA device is here: run this on a machine that has one")
    warnings.simplefilter("ignore")
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
    }
    for name, (measure, rows, _) in PARTS.items():
        result[name] = []
        for row in rows:
            result[name].append(measure(row))
            (folder / "cuda.json").write_text(json.dumps(result, indent=1) + "\n")
            (folder / "cuda.md").write_text(text(result))
    print(text(result))


if __name__ == "__main__":
    folders, _ = arguments.read(__doc__, names="folder")
    main(Path(folders[0]) if folders else RESULTS)
