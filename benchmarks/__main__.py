"""Run the benchmarks, all or those named: `python -m benchmarks [NAME ...]`."""

from __future__ import annotations

import subprocess
import sys

from benchmarks import arguments

NAMES = (
    "schedules", "loop", "optimizers", "layerwise", "engines", "alternatives", "concordance",
    "wall", "regret",
)  # fmt: skip
"""In order; each runs in a process of its own, so that none warms up another."""


def main() -> None:
    """Run them one after another; the first that fails ends it."""
    chosen = arguments.read(__doc__, names="name")[0] or NAMES
    for name in chosen:
        if name not in NAMES:
            sys.exit(f"unknown benchmark {name!r}: known are {', '.join(NAMES)}")
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)


if __name__ == "__main__":
    main()
