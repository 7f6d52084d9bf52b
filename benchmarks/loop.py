"""What the plain loop costs beside the bare one that it stands for, in one run.

The bare loop is written out below: fetch by index, forward, backward, step, read the loss, set the
rate. Both do the same updates; rounds alternate, and the median of their ratios is reported.

    python -m benchmarks.loop

The results go to benchmarks/results/loop.json and loop.md.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import arguments
from etude import tasks
from etude.optimizers import build
from etude.randomness import derive_seed, random_state_kept
from etude.recipe import Recipe
from etude.tasks.sources.data import Cursor
from etude.training.machine.threads import use_threads
from etude.training.run import Run

RESULTS = Path(__file__).parent / "results"
TASKS = ("cancer-mlp", "digits-mlp", "digits-cnn", "digits-resnet", "digits-lstm", "patches-cnn")
ROUNDS, UPDATES = 15, 20
MOST = ROUNDS * UPDATES + 20


def bare(name: str, device: str = "cpu") -> tuple[Callable[[], None], int]:
    """Return a function that does `UPDATES` updates in a loop without a library around it."""
    task = tasks.get(name).on(torch.device(device))
    recipe = Recipe(**{**task.defaults, "steps": MOST})
    with random_state_kept(derive_seed(recipe.seed, "init")):
        model = task.build().to(device)
    size = task.train.check(recipe.batch_size)
    optimizer = build(
        recipe.optimizer.name, model, lr=recipe.lr, **recipe.optimizer.hyperparameters
    )
    shape = recipe.schedule.over(MOST)
    batches = task.train.stream(size, recipe.seed, Cursor())
    losses: list[float] = []
    model.train()
    loss_function = task.loss
    assert loss_function is not None

    def go() -> None:
        for _ in range(UPDATES):
            optimizer.zero_grad()
            inputs, targets = next(batches)
            loss = loss_function(model(inputs), targets)
            torch.autograd.backward(loss)
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * shape(len(losses))
            optimizer.step()
            losses.append(loss.item())

    return go, size


def ours(name: str) -> tuple[Callable[[], None], int]:
    """Return a function that does `UPDATES` updates of a Run, and the threads it uses."""
    task = tasks.get(name)
    run = Run(task, Recipe(**{**task.defaults, "steps": MOST}))
    run.check()

    def go() -> None:
        run.advance(run.step + UPDATES)

    return go, run.threads


def timed(go: Callable[[], None]) -> float:
    """Return the seconds of one update."""
    start = time.perf_counter()
    go()
    return (time.perf_counter() - start) / UPDATES


def measure(name: str) -> dict[str, float | str]:
    """Return milliseconds of an update in both loops, and their ratio."""
    (library, threads), (plain, _) = ours(name), bare(name)
    with use_threads(threads):
        library(), plain()
        pairs = [(timed(library), timed(plain)) for _ in range(ROUNDS)]
    return {
        "task": name,
        "threads": threads,
        "etude_ms": 1e3 * statistics.median(a for a, _ in pairs),
        "bare_ms": 1e3 * statistics.median(b for _, b in pairs),
        "ratio": statistics.median(a / b for a, b in pairs),
    }


def main() -> None:
    """Measure, print, and write the results."""
    rows = [measure(name) for name in TASKS]
    machine = (
        f"{os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"
    )
    lines = [
        "# The plain loop beside a bare one",
        "",
        f"{machine}; {ROUNDS} rounds of {UPDATES} updates in turn. "
        "Written by `python -m benchmarks.loop`.",
        "",
        "| task | threads | etude, ms an update | bare, ms | ratio |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {r['task']} | {r['threads']} | {r['etude_ms']:.3f} | {r['bare_ms']:.3f} "
        f"| {r['ratio']:.3f} |"
        for r in rows
    ]
    print("\n".join(lines))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "loop.md").write_text("\n".join(lines) + "\n")
    content = {"machine": machine, "rows": rows}
    (RESULTS / "loop.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    arguments.read(__doc__)
    main()
