"""List, verify and score the zoo: `python -m benchmarks.doctor VERB`.

python -m benchmarks.doctor list                 # programs, edits, causes
python -m benchmarks.doctor verify [PART ...]    # measure what is new or has changed
python -m benchmarks.doctor features [PART ...]  # keep the probe's readings in cache/
python -m benchmarks.doctor score rivals         # the rivals: results/doctor/rivals.md
python -m benchmarks.doctor score rivals --stored  # the page, from the verdicts that are there
python -m benchmarks.doctor score repair         # remedies, on the open programs: repair.md
python -m benchmarks.doctor score repair --held  # and on the held ones
python -m benchmarks.doctor score repair --held --drawn 40 --seeds 0  # on cases drawn at random
python -m benchmarks.doctor score watch          # etude.watch, on the open programs
python -m benchmarks.doctor score watch --held   # and on the held ones: once a design is fixed
python -m benchmarks.doctor gather [PART ...]    # keep the evidence of verdicts in cache/evidence/
python -m benchmarks.doctor fit                  # fit the verdict's table to the open programs
python -m benchmarks.doctor score etude [--held] # Etude's verdicts: results/doctor/etude.md
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence

import torch

from benchmarks import doctor
from benchmarks.doctor import (
    fit,
    mended,
    mended_table,
    rivals_page,
    score,
    verdicts,
    verify,
)
from benchmarks.doctor.case import Case
from benchmarks.doctor.diagnoser import Diagnoser
from benchmarks.doctor.gathered import gather
from benchmarks.doctor.installed import INSTALLED
from benchmarks.doctor.keep import kept
from benchmarks.doctor.rivals import RIVALS
from benchmarks.doctor.watched import Watched
from etude import files

DIAGNOSERS: dict[str, Sequence[Diagnoser]] = {
    "rivals": (*RIVALS, *INSTALLED),
    "watch": (Watched(),),
}


def listed() -> None:
    """Print the programs and their edits, in Markdown."""
    print("| program | kind | | edit | cause | layer | twin |")
    print("|---|---|---|---|---|---|---|")
    for name, program in doctor.PROGRAMS.items():
        part = "held" if name in doctor.HELD else "open"
        for edit in program.edits:
            cause, twin = edit.cause or "healthy", (edit.twin or "as it is") if edit.cause else ""
            print(
                "|", " | ".join((name, program.kind, part, edit.name, cause, edit.layer, twin)), "|"
            )
    faults = [edit for program in doctor.PROGRAMS.values() for edit in program.faults]
    variants = [edit for program in doctor.PROGRAMS.values() for edit in program.variants]
    print(
        f"\n{len(faults)} faults, {len(doctor.PROGRAMS) + len(variants)} healthy; three seeds each"
    )
    for cause, count in sorted(Counter(edit.cause for edit in faults).items()):
        print(f"{count:4d} {cause}")


def scored(names: Sequence[str], cases: list[Case]) -> None:
    """Score diagnosers, keep their verdicts, and print the table."""
    results: dict[str, list[score.Row]] = {}
    for name in names:
        if name == "rivals":
            results |= score.go_on(DIAGNOSERS[name], cases)
            continue
        for diagnoser in DIAGNOSERS[name]:
            results[diagnoser.name] = score.judge(diagnoser, cases)
            score.keep(diagnoser.name, results[diagnoser.name])
    if list(names) == ["rivals"]:
        rivals_written()
    else:
        print(score.table(results) + "\n" + score.by_cause(results))


def rivals_written() -> None:
    """Write and print the page of the rivals, from the verdicts that are stored."""
    rules, installed = ([one.name for one in some] for some in (RIVALS, INSTALLED))
    told = rivals_page.page(rules, installed, tuple(verdicts.NAMES.values()))
    print(told)
    files.write_text(score.FOLDER / "rivals.md", told)


def repaired(cases: list[Case], ways: Sequence[str], anew: bool, count: int | None) -> None:
    """Mend the cases that can be mended, or some of them, and print and keep what came of it."""
    fitting = [case for case in cases if mended.fits(case)]
    chosen = fitting if count is None else mended.drawn(fitting, count)
    table = mended.mend(chosen, ways, anew)
    every = [case for case in doctor.cases() if mended.fits(case)]
    told = mended_table.report(table, every, verify.read())
    print(told)
    files.write_text(score.FOLDER / "repair.md", told)


VERBS = ("list", "verify", "features", "gather", "fit", "score")


def main() -> None:
    """Parse, call, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.doctor")
    parser.add_argument("verb", choices=VERBS)
    parser.add_argument("names", nargs="*", help="parts of names of cases, or diagnosers to score")
    parser.add_argument("--seeds", type=int, nargs="+", help="of the cases; all three, fit one")
    parser.add_argument("--held", action="store_true", help="score the held programs too")
    parser.add_argument("--stored", action="store_true", help="rivals: measure nothing, write")
    parser.add_argument("--anew", action="store_true", help="measure what is in the table too")
    parser.add_argument(
        "--ways", nargs="+", choices=mended.WAYS, default=list(mended.WAYS),
        help="how to mend a case",
    )  # fmt: skip
    parser.add_argument("--drawn", type=int, help="mend so many cases, drawn at random")
    given = parser.parse_args()
    if given.seeds is None:
        given.seeds = list(fit.SEEDS if given.verb == "fit" else doctor.SEEDS)
    torch.set_num_threads(1)
    if given.verb == "list":
        listed()
        return
    every = doctor.cases()
    cases = [case for case in sorted(every, key=lambda case: case.seed) if case.seed in given.seeds]
    if given.verb == "score":
        wanted = given.names or ["rivals"]
        if wanted != ["rivals"] and not given.held:
            cases = [case for case in cases if case.program.name in doctor.OPEN]
        if wanted == ["repair"]:
            repaired(cases, given.ways, given.anew, given.drawn)
        elif wanted == ["etude"]:
            print(verdicts.page(cases, given.seeds))
        elif wanted == ["rivals"] and given.stored:
            rivals_written()
        else:
            scored(wanted, cases)
        return
    if given.verb == "fit":
        fit.fit([*(c for c in cases if c.program.name in doctor.OPEN), *doctor.further()])
        return
    every, cases = [*every, *doctor.further()], [*cases, *doctor.further()]
    cases = [c for c in cases if not given.names or any(part in c.name for part in given.names)]
    if given.verb == "features":
        for case in cases:
            kept(case)
        return
    if given.verb == "gather":
        for line in gather(cases):
            print(line, flush=True)
        return
    for line in verify.verify(cases, every, given.anew):
        print("!!", line)


if __name__ == "__main__":
    main()
