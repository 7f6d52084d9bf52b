"""Run the sections on training in several processes: `python -m benchmarks.scale [SECTION ...]`.

Each section is a file of this folder with a function `main`, and writes its own results. With
`--page` it writes the page of what was measured before.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

from benchmarks import arguments


def sections() -> list[str]:
    """Return the names of the sections."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return [f.stem for f in files if "def main(" in f.read_text() and f.stem != "__main__"]


def main() -> None:
    """Run those that are named, or all."""
    known = sections()
    for name in arguments.read(__doc__, names="section", flags=["--page"])[0] or known:
        if name not in known:
            sys.exit(f"unknown section {name!r}: known are {', '.join(known)}")
        import_module(f"benchmarks.scale.{name}").main()


if __name__ == "__main__":
    main()
