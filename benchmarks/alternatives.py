"""What two clever parts gain over a simple one each: the pool's wire format, auto's cost model.

    python -m benchmarks.alternatives [wire | auto]

*The wire format.* The states of runs go to another process and back: as the pool sends them
(`engines/process/state_transfer.py`), and as the bytes of a safetensors file, whose metadata hold
what is no tensor. Then whole jobs of the pool are done with the one and with the other.

*The choice of an engine.* `AutoEngine` against a simple rule: let each engine that can do ten
updates of all runs do them, and take the fastest. Both do whole jobs, with all that it costs to
choose. `exact` has the loop and the pool, which give the same bits; `free` the stacked engines too.

Rounds alternate, and the median of their ratios is reported. A clever part stays where it takes
at most 0.91 of the simple one's time. The results go to benchmarks/results/alternatives.json and
alternatives.md.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from benchmarks import arguments
from benchmarks.engines import runs_of
from etude import tasks
from etude.engines import AutoEngine, Engine, LoopEngine, PoolEngine, VmapEngine, VmapPoolEngine
from etude.engines.process import state_transfer
from etude.engines.process.state_transfer import StateTransfer
from etude.storage.state_tree import flatten, unflatten
from etude.training.run import Run

RESULTS = Path(__file__).parent / "results"
GAIN = 0.91
"""Share of the simple part's time that a clever one may take at most: a gain of 10%."""

QUIET = 1.0
"""Load average above which the page says that the machine was busy."""

WIRED = ("cancer-mlp", "digits-cnn")
MEMBERS, PAUSES, UPDATES = 6, 8, 8
"""A job of the pool: runs, calls, and updates a call: short ones, as of a search's first rungs."""

JOBS: dict[str, tuple[str, int, int]] = {
    "small": ("cancer-mlp", 8, 400),
    "convolutions": ("digits-cnn", 6, 120),
    "recurrent": ("digits-lstm", 4, 120),
    "heavy": ("digits-resnet", 4, 24),
    "short": ("digits-mlp", 4, 48),
}
"""Task, members and updates of each; advanced in four calls, the last two with half the runs."""

TRIED = 10


# ---- the wire format ---------------------------------------------------------------------------


def to_bytes(state: Mapping[str, Any]) -> bytes:
    """Return a state as the bytes of a safetensors file."""
    tree, tensors = flatten(state)
    return safetensors.torch.save(tensors, {"tree": json.dumps(tree)})


def from_bytes(found: bytes) -> Any:
    """Return the state of `to_bytes`."""
    length = int.from_bytes(found[:8], "little")
    tree = json.loads(found[8 : 8 + length])["__metadata__"]["tree"]
    return unflatten(json.loads(tree), safetensors.torch.load(found))


def _echo(pipe: Any, transfer: StateTransfer, rounds: int, own: bool) -> None:
    torch.set_num_threads(1)
    for _ in range(rounds):
        packed_states = pipe.recv()
        if own:
            pipe.send(transfer.put(list(transfer.get(packed_states))))
        else:
            pipe.send([to_bytes(from_bytes(packed)) for packed in packed_states])


@contextmanager
def echoing(rounds: int, own: bool, room: int) -> Iterator[Callable[[list[Any]], list[Any]]]:
    """Yield a function that sends states to a forked process and returns what it sends back."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    transfer = StateTransfer(room)
    process = context.Process(target=_echo, args=(theirs, transfer, rounds, own))
    process.start()

    def go(states: list[Any]) -> list[Any]:
        if own:
            ours.send(transfer.put(states))
            return list(transfer.get(ours.recv()))
        ours.send([to_bytes(state) for state in states])
        return [from_bytes(packed) for packed in ours.recv()]

    try:
        yield go
    finally:
        process.join(10)
        process.kill()


def seconds(go: Callable[[], Any]) -> float:
    """Return how long something takes."""
    started = time.perf_counter()
    go()
    return time.perf_counter() - started


def round_trips(name: str, rounds: int = 31) -> tuple[list[float], list[float]]:
    """Return the seconds of sending a run's state there and back, in each of two ways."""
    (run,) = runs_of(tasks.get(name), 1, 100)
    run.advance(5)
    states = [run.state_dict()]
    room = state_transfer.room_for([run], 1)
    own, other = [], []
    with echoing(rounds, True, room) as fast, echoing(rounds, False, 0) as plain:
        for _ in range(rounds):
            own.append(seconds(lambda: fast(states)))
            other.append(seconds(lambda: plain(states)))
    return own[1:], other[1:]


@contextmanager
def simple_wire() -> Iterator[None]:
    """Let pools that are begun in a block send safetensors bytes."""
    put, get = StateTransfer.put, StateTransfer.get

    def put_bytes(self: StateTransfer, states: Sequence[Mapping[str, Any]]) -> list[bytes]:
        return [to_bytes(state) for state in states]

    def get_bytes(self: StateTransfer, packed_states: Sequence[bytes]) -> Iterator[Any]:
        return map(from_bytes, packed_states)

    StateTransfer.put, StateTransfer.get = put_bytes, get_bytes  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        StateTransfer.put, StateTransfer.get = put, get  # type: ignore[method-assign]


def pool_job(name: str) -> float:
    """Return the seconds of one job of the pool, its start left out."""
    runs = runs_of(tasks.get(name), MEMBERS, 10_000)
    with PoolEngine() as engine:
        engine.advance(runs, 2)
        started = time.perf_counter()
        for i in range(PAUSES):
            engine.advance(runs, 2 + UPDATES * (i + 1))
        return time.perf_counter() - started


def measure_wire(name: str, rounds: int = 3) -> dict[str, Any]:
    """Return one row: both ways of sending, alone and within jobs of the pool."""
    own, other = round_trips(name)
    jobs: list[tuple[float, float]] = []
    for _ in range(rounds):
        mine = pool_job(name)
        with simple_wire():
            jobs.append((mine, pool_job(name)))
    return {
        "task": name,
        "own_ms": 1e3 * statistics.median(own),
        "safetensors_ms": 1e3 * statistics.median(other),
        "ratio": statistics.median(a / b for a, b in zip(own, other, strict=True)),
        "own_job_s": statistics.median(a for a, _ in jobs),
        "safetensors_job_s": statistics.median(b for _, b in jobs),
        "job_ratio": statistics.median(a / b for a, b in jobs),
        "job_ratios": [a / b for a, b in jobs],
    }


# ---- the choice of an engine -------------------------------------------------------------------


class TenOfEach:
    """The simple rule: ten updates of all runs in every engine, and then the fastest."""

    def __init__(self, exact: bool) -> None:
        self.engines: list[Engine] = [LoopEngine(), PoolEngine()]
        if not exact:
            self.engines += [VmapEngine(fallback=self.engines[1]), VmapPoolEngine()]
        self.taken: Engine | None = None

    def advance(self, runs: Sequence[Run], until: int) -> None:
        """Train every run up to an update."""
        if self.taken is None and len(runs) > 1:
            spent: dict[int, float] = {}
            for place, engine in enumerate(self.engines):
                end = min(until, max(run.step for run in runs) + TRIED)
                spent[place] = seconds(lambda e=engine, end=end: e.advance(runs, end))  # type: ignore[misc]
                if end == until:
                    break
            self.taken = self.engines[min(spent, key=lambda place: spent[place])]
        (self.taken or self.engines[0]).advance(runs, until)

    def close(self) -> None:
        """Let every engine give back what it holds."""
        for engine in self.engines:
            engine.close()


def whole_job(job: str, engine: TenOfEach | AutoEngine) -> float:
    """Return the seconds of a job, from its first call to its last."""
    name, members, steps = JOBS[job]
    runs = runs_of(tasks.get(name), members, steps)
    started = time.perf_counter()
    for quarter in (1, 2, 3, 4):
        chosen = runs if quarter < 3 else runs[: members // 2]
        engine.advance(chosen, steps * quarter // 4)
    spent = time.perf_counter() - started
    engine.close()
    return spent


def measure_auto(job: str, exact: bool, rounds: int) -> dict[str, Any]:
    """Return one row: a job by `auto` and by the simple rule, and what each took."""
    pairs, chosen = [], []
    for i in range(rounds):
        auto, simple = AutoEngine(exact=exact), TenOfEach(exact)
        order: list[TenOfEach | AutoEngine] = [auto, simple] if i % 2 else [simple, auto]
        spent = {id(engine): whole_job(job, engine) for engine in order}
        pairs.append((spent[id(auto)], spent[id(simple)]))
        taken = "loop" if simple.taken is None else simple.taken.name
        chosen.append([auto.choices[0].engine, taken])
    return {
        "job": job,
        "exact": exact,
        "auto_s": statistics.median(a for a, _ in pairs),
        "simple_s": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(a / b for a, b in pairs),
        "ratios": [a / b for a, b in pairs],
        "chosen": chosen,
    }


# ---- the page ----------------------------------------------------------------------------------


def span(ratios: Sequence[float]) -> str:
    """Return the least and the largest of some ratios.

    >>> span([0.9, 1.25, 1.0])
    '(0.90 to 1.25)'
    """
    return f"({min(ratios):.2f} to {max(ratios):.2f})"


def quietness(load: float) -> str:
    """Say how busy the machine was when a part was begun.

    >>> quietness(0.25)
    'Load at the start: 0.2.'
    """
    noise = "" if load < QUIET else " The machine was not quiet: 10% cannot be told."
    return f"Load at the start: {load:.1f}.{noise}"


def text(result: dict[str, Any]) -> str:
    """Return the results as a page."""
    lines = [
        "# Two clever parts beside simple ones",
        "",
        f"{result['machine']}. Rounds alternate, ratios are medians, with the least and the "
        "largest in brackets. Below 1 the clever part is faster, and it stays where it takes at "
        f"most {GAIN:g} of the simple one's time. Written by `python -m benchmarks.alternatives`.",
    ]
    if result.get("wire"):
        lines += [
            "",
            "## A run's state to another process and back: the pool's format, safetensors bytes",
            "",
            f"A job is {PAUSES} calls of {UPDATES} updates for {MEMBERS} runs. "
            + quietness(result["load"]["wire"]),
            "",
            "| task | own, ms | safetensors, ms | ratio | own job, s | other job, s | ratio |",
            "|---|---:|---:|---:|---:|---:|---:|",
        ]
        lines += [
            f"| {r['task']} | {r['own_ms']:.2f} | {r['safetensors_ms']:.2f} | {r['ratio']:.2f} "
            f"| {r['own_job_s']:.2f} | {r['safetensors_job_s']:.2f} "
            f"| {r['job_ratio']:.2f} {span(r['job_ratios'])} |"
            for r in result["wire"]
        ]
    if result.get("auto"):
        lines += [
            "",
            "## `auto` and the simple rule",
            "",
            "A job is four calls, the last two with half the runs; what was taken is named for "
            "each round. " + quietness(result["load"]["auto"]),
            "",
            "| job | engines | auto, s | simple, s | ratio | auto took | simple took |",
            "|---|---|---:|---:|---:|---|---|",
        ]
        for r in result["auto"]:
            took = [", ".join(row) for row in zip(*r["chosen"], strict=True)]
            lines.append(
                f"| {r['job']} | {'exact' if r['exact'] else 'free'} | {r['auto_s']:.2f} "
                f"| {r['simple_s']:.2f} | {r['ratio']:.2f} {span(r['ratios'])} "
                f"| {took[0]} | {took[1]} |"
            )
    return "\n".join(lines) + "\n"


def save(result: dict[str, Any]) -> None:
    """Write what was measured so far."""
    (RESULTS / "alternatives.json").write_text(json.dumps(result, indent=1) + "\n")
    (RESULTS / "alternatives.md").write_text(text(result))


def main(parts: list[str]) -> None:
    """Measure all, or the parts named, print and write the results as they come."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    kept = RESULTS / "alternatives.json"
    chosen = parts or ["wire", "auto"]
    result: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    result |= {
        "machine": f"{os.cpu_count()} cores, Python {platform.python_version()}, "
        f"torch {torch.__version__}",
        **{part: [] for part in chosen},
    }
    if "wire" in chosen:
        result.setdefault("load", {})["wire"] = os.getloadavg()[0]
    for name in WIRED if "wire" in chosen else ():
        result["wire"].append(measure_wire(name))
        save(result)
    if "auto" in chosen:
        result.setdefault("load", {})["auto"] = os.getloadavg()[0]
    for exact in (True, False) if "auto" in chosen else ():
        for job in JOBS:
            result["auto"].append(measure_auto(job, exact, rounds=3))
            save(result)
    print(text(result))


if __name__ == "__main__":
    main(arguments.read(__doc__, names="part")[0])
