"""What Etude does on a CUDA device: stacks against the loop, the loop against a bare one, waits.

    python -m benchmarks.cuda [FOLDER]

The results go to FOLDER, benchmarks/results if it is left out, as cuda.json and cuda.md.
"""

from __future__ import annotations

import json
import statistics
import warnings
from pathlib import Path
from typing import Any

import torch

from benchmarks import arguments
from benchmarks.engines import LONG, RESULTS, on_a_gpu, runs_of
from benchmarks.loop import UPDATES, bare, timed
from etude.tasks.table import get

MEMBERS = (4, 16, 64, 128)
TASKS = ("digits-mlp", "digits-cnn", "digits-resnet", "digits-lstm")
ROUNDS, OBSERVED = 9, 160


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


def text(result: dict[str, Any]) -> str:
    """Return the results as a page."""
    lines = [
        "# On a CUDA device",
        "",
        f"{result['device']}, torch {result['torch']}. Written by `python -m benchmarks.cuda`.",
        "",
        "## The loop beside a bare one that reads every loss",
        "",
        "| task | etude, ms an update | bare, ms | ratio | waits for the device, an update |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {r['task']} | {r['etude_ms']:.3f} | {r['bare_ms']:.3f} | {r['ratio']:.2f} "
            f"| {r['waits']:.3f} |"
            for r in result["loop"]
        ),
        "",
        "## Stacked members, updates a second against the loop (mlp 32)",
        "",
        "| members | loop/s | vmap | vmap compiled |",
        "|---:|---:|---:|---:|",
    ]
    for row in result["engines"]:
        rates = row["rates"]
        lines.append(
            f"| {row['members']} | {rates['loop']:,.0f} | {rates['vmap'] / rates['loop']:.1f}× "
            f"| {rates['vmap compiled'] / rates['loop']:.1f}× |"
        )
    return "\n".join(lines) + "\n"


def main(folder: Path) -> None:
    """Measure, print and write the results as they come."""
    warnings.simplefilter("ignore")
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "loop": [beside_bare(name) for name in TASKS],
        "engines": [],
    }
    for members in MEMBERS:
        result["engines"].append(on_a_gpu(members))
        (folder / "cuda.json").write_text(json.dumps(result, indent=1) + "\n")
        (folder / "cuda.md").write_text(text(result))
    print(text(result))


if __name__ == "__main__":
    folders, _ = arguments.read(__doc__, names="folder")
    main(Path(folders[0]) if folders else RESULTS)
