"""Fill the cache of the data and list the tasks: `python -m benchmarks.fresh [NAME ...]`.

The seconds are those of a few updates and one evaluation on one thread, taken up to a full run of
16 evaluations. Of the updates the fastest half counts: what else runs here shall not.
"""

from __future__ import annotations

import time

import torch

from benchmarks import arguments, fresh
from etude.recipe import Recipe
from etude.training.run import Run

UPDATES, EVALUATIONS = 24, 16


def seconds(name: str) -> float:
    """Return the estimated seconds of a full run of a task."""
    task = fresh.get(name)
    run = Run(task, Recipe(**{**task.defaults, "evaluations": EVALUATIONS}))
    run.limit_threads(1)
    run.advance(4)
    updates, evaluations = [], []
    for step in range(UPDATES):
        start = time.perf_counter()
        run.advance(5 + step)
        updates.append(time.perf_counter() - start)
    for _ in range(3):
        start = time.perf_counter()
        run.evaluate()
        evaluations.append(time.perf_counter() - start)
    fast = sorted(updates)[: UPDATES // 2]
    return run.length * sum(fast) / len(fast) + EVALUATIONS * min(evaluations)


def main() -> None:
    """Print a line for every task, in Markdown."""
    torch.set_num_threads(1)
    print("| task | kind | train / valid | inputs | recipe | steps | s | source |")
    print("|---|---|---|---|---|---|---|---|")
    for name in arguments.read(__doc__, names="task")[0] or fresh.TASKS:
        row, task = fresh.ROWS[name], fresh.get(name)
        recipe = Recipe(**task.defaults)
        inputs = ", ".join("×".join(map(str, x.shape[1:])) or "1" for x in task.train.tensors[:-1])
        cells = (
            f"`{name}`" + (" (late)" if row.late else ""),
            row.kind,
            f"{task.train.samples} / {task.valid.samples}",
            inputs,
            f"{recipe.optimizer}, {recipe.schedule}",
            str(recipe.steps),
            f"{seconds(name):.1f}",
            row.source,
        )
        print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
