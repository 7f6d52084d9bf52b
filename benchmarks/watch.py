"""What watching costs: the time of an update with and without `etude.watch`, in one run.

Blocks of updates alternate between a bare loop, the watch at its default, and the watch at every
update; the median of the ratios of neighbouring blocks is reported. Every block goes on with the
same model, optimizer and data. The watches stay open from block to block, as they would in a long
run; while another block runs, theirs are detached.

    python -m benchmarks.watch

The other tools are measured in the same way (`watch_rivals.py`), where they are installed.

The results go to benchmarks/results/watch.json and watch.md.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from pathlib import Path
from typing import Any

import torch

import etude
from benchmarks import arguments
from benchmarks.watch_loop import NETWORKS, Loop, spread
from benchmarks.watch_rivals import RIVALS, cost
from benchmarks.watch_rivals import lines as rivals_table

RESULTS = Path(__file__).parent / "results"
ROUNDS, SECONDS = 6, 0.5
"""How many rounds of blocks, and how long a block of the bare loop takes."""


def measure(name: str) -> dict[str, Any]:
    """Return milliseconds of a bare update, and the ratios of watched ones."""
    build, batch = NETWORKS[name]
    loop = Loop(build, batch)
    loop.block(5)
    updates = max(20, round(SECONDS / loop.block(10)))
    ratios: dict[str, list[float]] = {"default": [], "every update": []}
    samples: list[str] = []
    bare: list[float] = []
    for turn in range(ROUNDS):
        for label, every in (("default", None), ("every update", 1)):
            before = loop.block(updates)
            with etude.watch(loop.model, loop.optimizer, every=every, on_finding=_quiet) as w:
                loop.block(updates // 2)  # the first updates, which are sampled on credit
                watched = loop.block(updates)
            after = loop.block(updates)
            bare += [before, after]
            ratios[label].append(2 * watched / (before + after))
            if every is None and turn == ROUNDS - 1:
                samples = list(w.report().seen[:1])
    return {
        "network": name,
        "bare_ms": 1e3 * statistics.median(bare),
        "default": statistics.median(ratios["default"]),
        "every": statistics.median(ratios["every update"]),
        "spread": [spread(ratios["default"]), spread(ratios["every update"])],
        "sampled": samples[0] if samples else "",
    }


def _quiet(finding: object) -> None:
    """Tell nobody."""


def main() -> None:
    """Measure, print, and write the results."""
    torch.set_num_threads(1)
    rows = [measure(name) for name in NETWORKS]
    write(rows, [cost(name, rival, ROUNDS, SECONDS) for rival in RIVALS for name in NETWORKS])


def write(rows: list[dict[str, Any]], rivals: list[dict[str, Any]]) -> None:
    """Print the results, and write them.

    Args:
        rows: What `measure` returned, by network.
        rivals: What `cost` returned, by tool and network.
    """
    machine = (
        f"{os.cpu_count()} cores, one thread, Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )
    lines = [
        "# What watching costs",
        "",
        f"{machine}; {ROUNDS} rounds of blocks of about {SECONDS:g} s, watched and unwatched in "
        f"turn, in seconds of the process; load average {os.getloadavg()[0]:.1f} at the end. "
        "Ratios are medians over rounds, with quartiles. "
        "Written by `python -m benchmarks.watch`.",
        "",
        "| network | bare update, ms | default | every update | sampled by default |",
        "|---|---:|---:|---:|---|",
    ]
    lines += [
        f"| {r['network']} | {r['bare_ms']:.2f} "
        f"| {r['default']:.3f} ({r['spread'][0][0]:.3f} to {r['spread'][0][1]:.3f}) "
        f"| {r['every']:.3f} ({r['spread'][1][0]:.3f} to {r['spread'][1][1]:.3f}) "
        f"| {r['sampled']} |"
        for r in rows
    ]
    if rivals:
        lines += ["", "## Others, at their defaults", "", *rivals_table(rivals)]
    print("\n".join(lines))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "watch.md").write_text("\n".join(lines) + "\n")
    content = {"machine": machine, "rows": rows, "rivals": rivals}
    (RESULTS / "watch.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    arguments.read(__doc__)
    main()
