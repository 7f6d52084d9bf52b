"""What every bundled task gives under every engine, to the bit: recorded once, held ever after.

`python -m tests.bits` writes what this machine gives into `tests/data/bits.json`, beside what
other kinds of machine gave. Bits depend on the processor and on torch's build: each recording
carries both. `python -m tests.bits tune` writes the answers of tunings alone, which change with
the search, and leaves the runs as they are.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import etude
from etude import Recipe, Record, Task, tasks
from etude.engines import train_many

FILE = Path(__file__).parent / "data" / "bits.json"

ENGINES = ("loop", "pool", "vmap")
TRAINED = {"steps": 12, "batch_size": 16, "evaluations": 3}
TUNED = {"steps": 32, "batch_size": 16, "evaluations": 4}
BUDGET = 1.5


def bundled() -> list[str]:
    """Return the tasks whose data ships with a dependency."""
    return [row.name for row in tasks.rows() if "hub" not in row.factory.data]


def machine() -> str:
    """Name what bits depend on: the processor, the kernels torch may take, and its version."""
    capability = torch.backends.cpu.get_cpu_capability()
    onednn = torch.backends.mkldnn.is_available()
    return f"{_processor()} | {capability} | {onednn} | torch {torch.__version__}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        wanted = ("model name", "cpu family", "model\t", "stepping", "cache size")
        lines = [line for line in info.read_text().splitlines() if line.startswith(wanted)]
        return " ".join(line.partition(":")[2].strip() for line in lines[: len(wanted)])
    return platform.processor() or platform.machine()


def small(name: str) -> Task:
    """Return a bundled task as it comes."""
    return tasks.get(name)


def recipes(task: Task) -> list[Recipe]:
    """Return two short recipes that differ in rate and seed."""
    base = Recipe(**{**task.defaults, **TRAINED})
    return [base, base.replace(lr=base.lr / 2, seed=1)]


def trained(name: str, engine: str) -> dict[str, Any]:
    """Return what two short runs of a task give in an engine."""
    task = small(name)
    records = train_many(task, recipes(task), engine, device="cpu")
    return {"runs": [_of_record(record) for record in records]}


def tuned(name: str) -> dict[str, Any]:
    """Return what a short tuning of a task answers."""
    task = small(name)
    recipe = Recipe(**{**task.defaults, **TUNED})
    best = etude.tune(task, recipe, BUDGET, engine="loop", device="cpu", progress=False)
    return {
        "lr": best.lr.hex(),
        "tied": [rate.hex() for rate in best.tied],
        "stable_below": None if best.stable_below is None else best.stable_below.hex(),
        "outcome": str(best.outcome),
        "cost": best.cost.hex(),
        "trials": [[trial.lr.hex(), len(trial.record.series["loss"])] for trial in best.trials],
        **_of_record(best.record, best.model),
    }


def _of_record(record: Record, model: torch.nn.Module | None = None) -> dict[str, Any]:
    model = record.model if model is None else model
    assert model is not None
    digest = hashlib.sha256()
    for key, tensor in model.state_dict().items():
        digest.update(key.encode())
        digest.update(
            tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    series = hashlib.sha256(
        json.dumps({k: [float(x).hex() for x in v] for k, v in record.series.items()}).encode()
    )
    return {
        "status": str(record.status),
        "steps": record.cost.steps,
        "weights": digest.hexdigest()[:16],
        "series": series.hexdigest()[:16],
        "evaluations": [
            [e.step, e.loss.hex(), None if e.metric is None else float(e.metric).hex()]
            for e in record.evaluations
        ],
    }


def decisions(found: dict[str, Any]) -> dict[str, Any]:
    """Return what no processor's rounding changes: statuses, lengths, evaluation steps."""
    return {
        "runs": [
            (run["status"], run["steps"], [e[0] for e in run["evaluations"]])
            for run in found.get("runs", [found])
        ],
        "cost": found.get("cost"),
    }


def close(found: dict[str, Any], other: dict[str, Any], tolerance: float) -> bool:
    """Say whether the losses of the evaluations agree up to a share of their size."""
    pairs = zip(found.get("runs", [found]), other.get("runs", [other]), strict=True)
    return all(
        math.isclose(float.fromhex(a[1]), float.fromhex(b[1]), rel_tol=tolerance, abs_tol=1e-6)
        for mine, theirs in pairs
        for a, b in zip(mine["evaluations"], theirs["evaluations"], strict=True)
    )


def everything(parts: Sequence[str] = (*ENGINES, "tune")) -> dict[str, Any]:
    """Return what every task gives, under every engine and tuned, or some of these parts."""
    found: dict[str, Any] = {}
    for name in bundled():
        found[name] = {
            part: tuned(name) if part == "tune" else trained(name, part) for part in parts
        }
        print(name, file=sys.stderr, flush=True)
    return found


def read() -> dict[str, Any]:
    """Return all recordings, by machine."""
    content = json.loads(FILE.read_text()) if FILE.exists() else {}
    assert isinstance(content, dict)
    return content


if __name__ == "__main__":
    recordings = read()
    parts = sys.argv[1:] or [*ENGINES, "tune"]
    kept = recordings.get(machine(), {})
    new = everything(parts)
    recordings[machine()] = {name: kept.get(name, {}) | new[name] for name in new}
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(recordings, indent=1, sort_keys=True) + "\n")
