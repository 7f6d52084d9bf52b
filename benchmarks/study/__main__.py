"""What a study costs, all ratios within one run.

    python -m benchmarks.study [SECTION ...]

Sections: rivals (Optuna's own loop), overhead (storage and scheduling), stored (100,000 trials),
cluster (Ray on this machine), scale (a model of 1,000 workers). The results go to
benchmarks/results/study.json and study.md; sections that are not named keep their figures.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from importlib import import_module
from importlib.metadata import version
from typing import Any

from benchmarks import arguments
from benchmarks.study_storage import RESULTS

SECTIONS = ("rivals", "overhead", "stored", "cluster", "scale")


def main() -> None:
    """Measure, and write the page."""
    chosen = arguments.read(__doc__, names="section")[0] or list(SECTIONS)
    if unknown := set(chosen) - set(SECTIONS):
        sys.exit(f"unknown section {unknown.pop()!r}: known are {', '.join(SECTIONS)}")
    place = RESULTS / "study.json"
    content: dict[str, Any] = json.loads(place.read_text()) if place.exists() else {}
    for name in chosen:
        load, started = os.getloadavg()[0], time.perf_counter()
        found = import_module(f"benchmarks.study.{name}").measure()
        loads = f"load average {load:.1f} before and {os.getloadavg()[0]:.1f} after"
        spent = time.perf_counter() - started
        content[name] = {"machine": f"{machine()}; {loads}; {spent:.0f} s", "found": found}
        place.write_text(json.dumps(content, indent=1) + "\n")
    text = page(content)
    (RESULTS / "study.md").write_text(text)
    print(text)


def machine() -> str:
    """Return what measured."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "optuna", "ray"))
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, {packages}"


def page(content: dict[str, Any]) -> str:
    """Return the page."""
    lines = ["# What a study costs", "", "Written by `python -m benchmarks.study`."]
    for name in SECTIONS:
        if name in content:
            one = content[name]
            lines += ["", *import_module(f"benchmarks.study.{name}").page(one["found"])]
            lines += ["", f"Measured on: {one['machine']}."]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
