"""What the engines do: updates of members per second, against the plain loop in the same run.

    python -m benchmarks.engines

Steady state: the time to fork, to trace and to compile is left out; the column 'auto, all in'
counts it, with a compiler's cache that is empty at the beginning of every row, and 'auto, steady'
is the steady state of the engine that auto took. Time is that of the clock on the wall: measure on
a machine that does nothing else, and mind the load average that is noted. The results go to
benchmarks/results/engines.json and engines.md.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch._inductor.config
from rich.console import Console
from rich.table import Table

from benchmarks import arguments
from etude import Recipe, Task
from etude.engines import AutoEngine, Engine, PoolEngine, VmapEngine, VmapPoolEngine
from etude.engines.process.engine import cores
from etude.tasks.sources.data import Cursor
from etude.tasks.table import get
from etude.training.machine.threads import counted_work
from etude.training.run import Run

RESULTS = Path(__file__).parent / "results"
LONG = 10_000_000
"""Updates of a run that is only measured, never finished."""

TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "mlp 32": ("digits-mlp", {"width": 32}),
    "mlp 128": ("digits-mlp", {"width": 128}),
    "mlp 512": ("digits-mlp", {"width": 512}),
    "cnn": ("digits-cnn", {}),
    "resnet": ("digits-resnet", {}),
    "lstm": ("digits-lstm", {}),
    "transformer": ("digits-transformer", {}),
}
MEMBERS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(TASKS, (4, 16)),
    "mlp 32": (4, 16, 64, 128),
    "mlp 128": (4, 16, 64),
}
COMPILED = {"mlp 32", "mlp 128", "mlp 512", "cnn"}
"""Tasks whose stacks are compiled here; the others' graphs take minutes on two cores."""

SECONDS = 0.5
"""How long a figure is measured at least."""

CACHE = "compiler's cache"

JOB = 10.0
"""Seconds that the loop would take for the job that is given to `auto`, compiling included."""


def runs_of(task: Task, members: int, steps: int, device: str | None = None) -> list[Run]:
    """Return runs that differ in their rates, as the tuner's candidates do."""
    recipe = Recipe(**{**task.defaults, "steps": steps})
    runs: list[Run] = []
    for i in range(members):
        run = Run(task, recipe.replace(lr=recipe.lr * 0.9**i), device=device)
        task = run.task
        if not runs:
            run.check()
        else:
            run.limit_threads(runs[0].threads)
        runs.append(run)
    return runs


def loop_rate(run: Run) -> float:
    """Return the loop's updates per second: the best of some stretches."""
    run.advance(run.step + 5)
    best, chunk = 0.0, 5
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        started = time.perf_counter()
        run.advance(run.step + chunk)
        spent = time.perf_counter() - started
        best = max(best, chunk / spent)
        chunk = max(5, round(0.2 / spent * chunk))
    return best


def rate(engine: Engine, runs: list[Run], warm: int) -> float:
    """Return the updates of members per second, what it takes to begin left out."""

    def spent(steps: int) -> float:
        started = time.perf_counter()
        engine.advance(runs, runs[0].step + steps)
        return time.perf_counter() - started

    spent(warm)
    count, long, short = warm // 2, 0.0, 0.0
    # What a call takes to begin and to end grows with the members: it must not hide the updates.
    while long - short < SECONDS:
        count *= 2
        short = min(spent(count) for _ in range(2))
        long = min(spent(3 * count) for _ in range(2))
    if isinstance(engine, PoolEngine):
        engine._pool = None  # its processes end; what was compiled stays
    return len(runs) * 2 * count / (long - short)


@contextmanager
def cold_compiler() -> Iterator[None]:
    """Let the compiler begin with an empty cache, for the length of a block."""
    before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        try:
            yield
        finally:
            os.environ.pop("TORCHINDUCTOR_CACHE_DIR")
            if before is not None:
                os.environ["TORCHINDUCTOR_CACHE_DIR"] = before


def compiled_rates(task: Task, members: int) -> tuple[dict[str, float], float]:
    """Return the rates of compiled stacks, and the seconds that compiling the largest took."""
    both = VmapPoolEngine(compile="always")
    found = {"vmap compiled": rate(both.inner, runs_of(task, members, LONG), 32)}
    ((_, execution),) = (f for f in both.inner._fitted.values() if not isinstance(f, str))
    seconds = execution.seconds
    if execution.compiled:
        found["vmap pool"] = rate(both, runs_of(task, members, LONG), 32)
    return (found if execution.compiled else {}), seconds


def steadily(run: Run, seconds: float) -> float:
    """Return the loop's updates per second over a while: what it does, not what it can."""
    first, started = run.step, time.perf_counter()
    while time.perf_counter() - started < seconds:
        run.advance(run.step + 20)
    return (run.step - first) / (time.perf_counter() - started)


def auto_ratio(task: Task, members: int, loop: float) -> tuple[float, str]:
    """Return how much sooner than the loop `auto` does a whole job, and its last choice.

    Trials and compiling are counted. The loop is watched for a while before and after.
    """
    other = runs_of(task, 1, LONG)[0]
    runs = runs_of(task, members, max(10, round(JOB * loop / members)))
    rates = [steadily(other, JOB / 8)]
    with AutoEngine() as engine, cold_compiler():
        started = time.perf_counter()
        engine.advance(runs)
        spent = time.perf_counter() - started
        choice = engine.choices[-1].engine
        if choice == "vmap" and engine._compiled(runs):
            choice = "vmap compiled"
    rates.append(steadily(other, JOB / 8))
    return sum(run.step for run in runs) / spent / (sum(rates) / 2), choice


def matmul_rate() -> float:
    """Return one core's multiplications and additions per second in a product of matrices."""
    torch.set_num_threads(1)
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    best = 0.0
    for _ in range(20):
        started = time.perf_counter()
        torch.mm(a, b)
        best = max(best, 2 * 1024**3 / (time.perf_counter() - started))
    return best


def work(run: Run) -> float:
    """Return the operations of one update: three forward passes' worth."""
    batch = next(run.task.train.stream(run.batch_size, 0, Cursor()))
    with counted_work(run.model) as counted, torch.no_grad():
        run.task.forward(run.model, batch)
    return 3 * sum(counted)


def measure(name: str, members: int, peak: float) -> dict[str, Any]:
    """Return one row: rates of every engine, as updates of members per second."""
    task = get(TASKS[name][0], **TASKS[name][1])
    first = runs_of(task, 1, LONG)[0]
    loop = loop_rate(first)
    rates = {"pool": rate(PoolEngine(), runs_of(task, members, LONG), 8)}
    rates["vmap"] = rate(VmapEngine(compile="never"), runs_of(task, members, LONG), 4)
    seconds = 0.0
    if name in COMPILED:
        with cold_compiler():
            compiled, seconds = compiled_rates(task, members)
        rates |= compiled
    all_in, choice = auto_ratio(task, members, loop)
    rates["loop"] = loop = max(loop, loop_rate(first))
    steady = max(rates.values())
    busy = cores() if steady in (rates["pool"], rates.get("vmap pool")) else 1
    return {
        "task": name,
        "members": members,
        "rates": rates,
        "compile seconds": seconds,
        "fastest engine": steady / loop,
        "fastest, by": max(rates, key=lambda engine: rates[engine]),
        "against the better of loop and pool": steady / max(loop, rates["pool"]),
        "auto, steady": rates.get(choice, rates["vmap"]) / loop,
        "auto, all in": all_in,
        "auto, all in, by": choice,
        "share of the matrix rate": steady * work(first) / peak / busy,
    }


def on_a_gpu(members: int) -> dict[str, Any]:
    """Return the rates of small networks on a GPU, where the loop leaves it idle."""
    task = get("digits-mlp", width=32)
    loop = loop_rate(runs_of(task, 1, LONG, "cuda")[0])
    plain = rate(VmapEngine(compile="never"), runs_of(task, members, LONG, "cuda"), 8)
    engine = VmapEngine(compile="always")
    compiled = rate(engine, runs_of(task, members, LONG, "cuda"), 32)
    return {
        "device": torch.cuda.get_device_name(),
        "task": "mlp 32",
        "members": members,
        "rates": {"loop": loop, "vmap": plain, "vmap compiled": compiled},
        "against the loop": max(plain, compiled) / loop,
    }


def table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the cells of the table."""
    header = [
        "task", "members", "loop/s", "pool", "vmap", "compiled", "(s)", "per core",
        "fastest engine", "over loop and pool", "auto, steady", "auto, all in", "share of mm",
    ]  # fmt: skip
    cells = []
    for row in rows:
        rates, loop = row["rates"], row["rates"]["loop"]
        compiled = rates.get("vmap compiled")
        cells.append(
            [
                row["task"],
                str(row["members"]),
                f"{loop:,.0f}",
                f"{rates['pool'] / loop:.2f}×",
                f"{rates['vmap'] / loop:.2f}×",
                f"{compiled / loop:.2f}×" if compiled else "–",
                f"{row['compile seconds']:.0f}" if compiled else "–",
                f"{rates['vmap pool'] / loop:.2f}×" if compiled else "–",
                f"{row['fastest engine']:.2f}× {row['fastest, by']}",
                f"{row['against the better of loop and pool']:.2f}×",
                f"{row['auto, steady']:.2f}×",
                f"{row['auto, all in']:.2f}× {row['auto, all in, by']}",
                f"{100 * row['share of the matrix rate']:.0f}%",
            ]
        )
    return header, cells


def save(result: dict[str, Any]) -> None:
    """Write what was measured so far as JSON and as a table."""
    (RESULTS / "engines.json").write_text(json.dumps(result, indent=1) + "\n")
    header, cells = table(result["rows"])
    lines = [" | ".join(header), " | ".join("---" for _ in header)]
    lines += [" | ".join(cell) for cell in cells]
    about = result["machine"]
    text = (
        "# Engines\n\nUpdates of members per second: the plain loop's, and every engine as a "
        f"multiple of it in the same run. {about['cores']} cores, torch {about['torch']}, "
        f"{about['system']}; one core's product of matrices reaches "
        f"{about['matrix rate'] / 1e9:.0f} GFLOP/s. Time is that of the clock on the wall. "
        "'fastest engine' is the best of the columns before it, in the steady state, and not what "
        "auto took; 'auto, steady' is the steady state of what it took in the end, and 'auto, all "
        f"in' what it did with a job of {JOB:.0f} s, trials and compiling counted, the compiler's "
        f"cache {about[CACHE]}. The load average was {about['load before']:.1f} before and "
        f"{about['load after']:.1f} after.\n\n"
    )
    body = "\n".join(f"| {line} |" for line in lines)
    gpu = result.get("gpu")
    after = "\n\nNo GPU was at hand.\n"
    if gpu:
        listed = "\n".join(
            f"- {one['members']} members: {one['against the loop']:.1f}×" for one in gpu
        )
        after = f"\n\n## {gpu[0]['device']}, mlp 32\n\n{listed}\n"
    (RESULTS / "engines.md").write_text(text + body + after)


def main(chosen: list[str]) -> None:
    """Measure all rows, or those of the tasks named, and write the results."""
    warnings.simplefilter("ignore")
    torch._inductor.config.force_disable_caches = True  # beside the files of the cold compiler
    RESULTS.mkdir(exist_ok=True)
    peak = matmul_rate()
    machine = {
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "matrix rate": peak,
        CACHE: "empty at the beginning",
        "load before": os.getloadavg()[0],
        "load after": os.getloadavg()[0],
    }
    result: dict[str, Any] = {"machine": machine, "rows": []}
    for members in (4, 16, 64, 128):  # so that what is there early covers every task
        for name in (one for one in chosen or TASKS if members in MEMBERS[one]):
            result["rows"].append(measure(name, members, peak))
            machine["load after"] = os.getloadavg()[0]
            save(result)
            print(table(result["rows"])[1][-1], flush=True)
    if torch.cuda.is_available():
        result["gpu"] = [on_a_gpu(members) for members in (4, 16, 64, 128)]
        save(result)
    shown = Table(*table(result["rows"])[0])
    for cell in table(result["rows"])[1]:
        shown.add_row(*cell)
    Console().print(shown)


if __name__ == "__main__":
    main(arguments.read(__doc__, names="task")[0])
