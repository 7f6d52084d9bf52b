"""List, verify or score the zoo: `python -m benchmarks.doctor list|verify|features|score`."""

from __future__ import annotations

import argparse
from collections import Counter

import torch

from benchmarks import doctor
from benchmarks.doctor import verify


def listed() -> None:
    """Print the programs and their edits, in Markdown."""
    print("| program | kind | | edit | cause | layer | twin |")
    print("|---|---|---|---|---|---|---|")
    for name, program in doctor.PROGRAMS.items():
        part = "held" if name in doctor.HELD else "open"
        for edit in program.edits:
            cause, twin = edit.cause or "healthy", (edit.twin or "as it is") if edit.cause else ""
            cells = name, program.kind, part, edit.name, cause, edit.layer, twin
            print("|", " | ".join(cells), "|")
    causes = Counter(e.cause for p in doctor.PROGRAMS.values() for e in p.faults)
    print("\n", dict(causes))


def main() -> None:
    """Parse, call, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.doctor")
    parser.add_argument("verb", choices=("list", "verify"))
    parser.add_argument("pattern", nargs="*", help="only cases whose name contains one of these")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(doctor.SEEDS))
    parser.add_argument("--anew", action="store_true", help="measure what is in the table too")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.verb == "list":
        listed()
        return
    every = doctor.cases()
    chosen = [
        case
        for case in sorted(every, key=lambda case: case.seed)
        if case.seed in given.seeds
        and (not given.pattern or any(part in case.name for part in given.pattern))
    ]
    for line in verify.verify(chosen, every, given.anew):
        print("!!", line)


if __name__ == "__main__":
    main()
