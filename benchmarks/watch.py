"""What watching costs: the time of an update with and without `etude.watch`, in one run.

Two loops of the same network, optimizer and data take turns in short blocks, in an order that
changes from round to round: one is bare, the other stays watched from the first update on, as a
long run would be. The first updates, which the watch samples on credit, come before the rounds and
are reported apart. The ratio is that of the sums over all rounds, since most blocks of a sampled
watch hold no sample; its interval is from a bootstrap over rounds. Beside it stands what the watch
itself counted, which other programs on the machine hardly change.

    python -m benchmarks.watch

The other tools are measured by blocks of one loop (`watch_rivals.py`), where they are installed.

The results go to benchmarks/results/watch.json and watch.md.
"""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

import etude
from benchmarks import arguments
from benchmarks.watch_loop import NETWORKS, Loop
from benchmarks.watch_rivals import RIVALS, cost
from benchmarks.watch_rivals import lines as rivals_table

RESULTS = Path(__file__).parent / "results"
FIRST, ROUNDS, SECONDS = 128, 80, 0.1
"""How many updates come before the rounds, how many rounds, how long a bare block is at least."""

RIVAL_ROUNDS, RIVAL_SECONDS = 6, 0.5
"""How many rounds of blocks for the other tools, and how long a block of the bare loop takes."""

HEADER = (
    "| network | bare update, ms | default | counted | every update | counted |",
    "|---|---:|---:|---:|---:|---:|",
)

RESAMPLES = 2_000
"""How often the rounds are drawn anew for the interval of a ratio."""


def measure(name: str, device: str = "cpu", rounds: int = ROUNDS) -> dict[str, Any]:
    """Return milliseconds of a bare update, and the ratios of watched ones."""
    build, batch = NETWORKS[name]
    found: dict[str, Any] = {"network": name}
    for label, every in (("default", None), ("every", 1)):
        bare, watched = Loop(build, batch, device), Loop(build, batch, device)
        with etude.watch(watched.model, watched.optimizer, every=every, on_finding=_quiet) as w:
            first = watched.block(FIRST) / bare.block(FIRST)
            updates = max(1, round(SECONDS / bare.block(10)))
            pairs = np.array([_round(bare, watched, updates, turn) for turn in range(rounds)])
            seen = w.report()
        found[label] = _ratio(pairs)
        found[f"{label}, interval"] = _interval(pairs)
        found[f"{label}, first updates"] = first
        assert seen.history is not None
        found[f"{label}, counted"] = seen.history.overhead
        found["bare_ms"] = 1e3 * float(np.median(pairs[:, 1]))
        if every is None:
            found["updates"] = FIRST + rounds * updates
            found["sampled"] = next(iter(seen.seen), "")
    return found


def _round(bare: Loop, watched: Loop, updates: int, turn: int) -> tuple[float, float]:
    """Return the seconds of an update of both loops, watched first in every second round."""
    if turn % 2:
        own = watched.block(updates)
        return own, bare.block(updates)
    plain = bare.block(updates)
    return watched.block(updates), plain


def _ratio(pairs: np.ndarray) -> float:
    return float(pairs[:, 0].sum() / pairs[:, 1].sum())


def _interval(pairs: np.ndarray) -> list[float]:
    """Return the 90% interval of the ratio, by a bootstrap over rounds."""
    drawn = np.random.default_rng(0).integers(0, len(pairs), (RESAMPLES, len(pairs)))
    sums = pairs[drawn].sum(axis=1)
    return [float(x) for x in np.quantile(sums[:, 0] / sums[:, 1], [0.05, 0.95])]


def _quiet(finding: object) -> None:
    """Tell nobody."""


def main() -> None:
    """Measure, print, and write the results."""
    torch.set_num_threads(1)
    rows = [measure(name) for name in NETWORKS]
    write(
        rows,
        [cost(name, rival, RIVAL_ROUNDS, RIVAL_SECONDS) for rival in RIVALS for name in NETWORKS],
    )


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
        f"{machine}; {ROUNDS} rounds of blocks of about {SECONDS:g} s, in seconds of the process, "
        f"after {FIRST} updates; load average {os.getloadavg()[0]:.1f} at the end. In brackets the "
        "interval that holds the ratio with 90%. Counted: what the watch itself counted as its "
        "own, from the first update on. Written by `python -m benchmarks.watch`.",
        "",
        *HEADER,
    ]
    lines += [row(r) for r in rows]
    lines += ["", f"The first {FIRST} updates, and what was sampled by default:", ""]
    lines += ["| network | default | every update | sampled |", "|---|---:|---:|---|"]
    lines += [
        f"| {r['network']} | {r['default, first updates']:.2f} | {r['every, first updates']:.2f} "
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


def row(found: dict[str, Any]) -> str:
    """Return the line of a network in the table under `HEADER`."""
    return (
        f"| {found['network']} | {found['bare_ms']:.2f} | {_cell(found, 'default')} "
        f"| {_cell(found, 'every')} |"
    )


def _cell(row: dict[str, Any], label: str) -> str:
    low, high = row[f"{label}, interval"]
    return f"{row[label]:.3f} ({low:.3f} to {high:.3f}) | {1 + row[f'{label}, counted']:.3f}"


if __name__ == "__main__":
    arguments.read(__doc__)
    main()
