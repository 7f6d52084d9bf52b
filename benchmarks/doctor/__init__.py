"""A zoo of training programs with known faults, each with a healthy twin.

    from benchmarks import doctor
    for case in doctor.cases(doctor.OPEN):
        case.run(watcher)

README.md says what a program, a fault and a case are; `python -m benchmarks.doctor` lists, verifies
and scores them. `OPEN` programs may be looked at while a diagnoser is built. `HELD` programs are
for scoring alone: nothing but their damage was looked at. Which is which was drawn by lot.
`further` gives more cases of open programs, to fit to; they are not scored.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.doctor.case import Case, Edit, Outcome, Program
from benchmarks.doctor.programs import attention, pictures, sequences, tables, values
from benchmarks.doctor.programs.further import FURTHER

__all__ = [
    "HELD", "OPEN", "PROGRAMS", "SEEDS", "Case", "Edit", "Outcome", "Program", "cases", "further",
    "get",
]  # fmt: skip

SEEDS = (0, 1, 2)
"""The seeds of every program and edit."""

PROGRAMS: dict[str, Program] = {
    program.name: program
    for module in (tables, pictures, sequences, attention, values)
    for program in module.PROGRAMS
}
"""Every program by name."""

LOT = "etude doctor programs"
"""The seed of the lot."""


def _lot() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the open and the held programs: a third is held, of every kind of network alike."""
    draw = random.Random(LOT)
    names = sorted(PROGRAMS)
    held = set(draw.sample(names, len(names) // 3))
    return tuple(n for n in PROGRAMS if n not in held), tuple(n for n in PROGRAMS if n in held)


OPEN, HELD = _lot()


def cases(programs: Sequence[str] | None = None, seeds: Sequence[int] = SEEDS) -> list[Case]:
    """Return the cases of some programs, or of all: healthy ones first, program by program."""
    return [
        Case(program, edit, seed)
        for program in (PROGRAMS[name] for name in (PROGRAMS if programs is None else programs))
        for edit in (None, *program.variants, *program.faults)
        for seed in seeds
    ]


def further() -> list[Case]:
    """Return the cases to fit to that are not scored: further edits of open programs, at seed 0."""
    return [
        Case(_with_further(name), edit, SEEDS[0])
        for name, edits in FURTHER.items()
        for edit in edits
    ]


def _with_further(name: str) -> Program:
    """Return a program that has its further edits too, among which faults find their twins."""
    program = PROGRAMS[name]
    return replace(program, edits=(*program.edits, *FURTHER.get(name, ())))


def get(name: str) -> Case:
    """Return a case by its name, 'program/edit/seed'."""
    program, _, rest = name.partition("/")
    edit, _, seed = rest.rpartition("/")
    found = PROGRAMS[program]
    if edit in {one.name for one in FURTHER.get(program, ())}:
        found = _with_further(program)
    return Case(found, None if edit == "healthy" else found.edit(edit), int(seed))
