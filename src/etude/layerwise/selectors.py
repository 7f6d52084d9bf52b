"""Selectors: text that selects parameters, or rows of parameters, for a rule.

conv*                 a name pattern (fnmatch) on a parameter or any module above it
@linear               a kind of layer, or @bias: every bias and shift
@input @middle @output   layers that read the input, produce the output, or are between
*[forget]             one gate of every layer that has it; [input,forget]: two
embedding*[0:100]     rows 0 to 99 of a tensor
@linear & layers.*    both at once
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from etude.errors import BadTypeError, BadValueError, unknown_name
from etude.layerwise.parts import GATES, KINDS, PROJECTION, Part

DEPTHS = ("input", "middle", "output")
WORDS = (*(kind for kind in KINDS if kind != "other"), "bias", *DEPTHS)
"""The words that may follow '@'."""

GATE_NAMES = (*dict.fromkeys(gate for gates in GATES.values() for gate in gates), PROJECTION)
"""The words that may be in brackets, besides row ranges."""

Span = tuple[int, int, str]
"""Rows of a tensor: the first, one past the last, and their label ('' for all)."""

_BRACKETS = re.compile(r"^(?P<where>.*)\[(?P<inside>[a-zA-Z_,\s]*|[\d\s]*:[\d\s]*)\]$", re.DOTALL)
"""Brackets at the end with words or rows; others, such as [0-9], are part of the pattern."""

_ROWS = re.compile(r"^\s*(\d+)\s*:\s*(\d+)\s*$")


@dataclass(frozen=True)
class Selector:
    """One parsed selector; `Selector.of` reads it from its text.

    Attributes:
        text: As written, without spaces around it.
        tests: Name patterns and '@' words that must all match.
        gates: Gate names, or empty.
        rows: A row range, or None.

    >>> Selector.of("lstm.*[forget]").gates
    ('forget',)
    """

    text: str
    tests: tuple[str, ...]
    gates: tuple[str, ...] = ()
    rows: tuple[int, int] | None = None

    @classmethod
    def of(cls, text: object) -> Selector:
        """Read a selector.

        Raises:
            BadTypeError: If it is not text.
            BadValueError: If it is empty, or a row range is.
            UnknownNameError: If a word after '@' or a gate is unknown.
        """
        if not isinstance(text, str):
            raise BadTypeError(
                f"a selector is text such as 'conv*', '@linear' or '*[forget]', not {text!r}"
            )
        text = text.strip()
        where = text
        gates: tuple[str, ...] = ()
        rows: tuple[int, int] | None = None
        if found := _BRACKETS.match(text):
            where = found["where"].strip()
            gates, rows = _inside(text, found["inside"])
        tests = tuple(test.strip() for test in where.split("&"))
        if not all(tests):
            raise BadValueError(
                f"selector {text!r} names no layer: write '*' for every layer, such as '*[forget]'"
            )
        for test in tests:
            if test.startswith("@") and test[1:] not in WORDS:
                raise unknown_name("selector", test, [f"@{word}" for word in WORDS])
        return cls(text, tests, gates, rows)

    @property
    def by_role(self) -> bool:
        """Whether the selector depends on the roles of layers."""
        return any(test.removeprefix("@") in DEPTHS for test in self.tests if test[0] == "@")

    @property
    def slices(self) -> bool:
        """Whether the selector selects rows of a tensor rather than the whole."""
        return bool(self.gates) or self.rows is not None

    def covers(self, part: Part, depths: int) -> bool:
        """Return whether every test matches a part, without regard to gates.

        Args:
            part: The part.
            depths: The number of layers of the model.
        """
        return all(_holds(test, part, depths) for test in self.tests)

    def spans(self, part: Part, depths: int) -> list[Span]:
        """Return the rows of a part that the selector selects; empty for none.

        Raises:
            BadValueError: If a row range exceeds the tensor.
        """
        if not self.covers(part, depths):
            return []
        if self.rows is not None:
            first, last = self.rows
            if last > part.rows:
                raise BadValueError(
                    f"selector {self.text!r} reaches row {last} of {part.name}, which has "
                    f"{part.rows}: give a range within 0:{part.rows}"
                )
            return [(first, last, f"[{first}:{last}]")]
        if self.gates:
            return [(*part.gates[gate], f"[{gate}]") for gate in self.gates if gate in part.gates]
        return [(0, part.rows, "")]

    def __repr__(self) -> str:
        return self.text


def _inside(text: str, inside: str) -> tuple[tuple[str, ...], tuple[int, int] | None]:
    """Read the content of brackets: a row range, or gates."""
    if found := _ROWS.match(inside):
        first, last = int(found[1]), int(found[2])
        if first >= last:
            raise BadValueError(f"selector {text!r} has an empty row range: give first < last")
        return (), (first, last)
    gates = tuple(gate.strip() for gate in inside.split(","))
    for gate in gates:
        if gate not in GATE_NAMES:
            raise unknown_name("gate", gate, GATE_NAMES)
    if len(set(gates)) < len(gates):
        raise BadValueError(f"selector {text!r} names a gate twice: name each once")
    return gates, None


def _holds(test: str, part: Part, depths: int) -> bool:
    if not test.startswith("@"):
        return any(fnmatchcase(name, test) for full in part.names for name in prefixes(full))
    word = test[1:]
    if word == "bias":
        return part.bias
    if word in DEPTHS and part.places:
        return word in part.places
    if word in DEPTHS:  # a part written by hand
        place = "input" if part.depth == 0 else "output" if part.depth == depths - 1 else "middle"
        return place == word
    return part.kind == word


def prefixes(name: str) -> list[str]:
    """Return a dotted name and the names of the modules above it.

    >>> prefixes("layers.0.weight")
    ['layers.0.weight', 'layers.0', 'layers']
    """
    pieces = name.split(".")
    return [".".join(pieces[:i]) for i in range(len(pieces), 0, -1)]


def near_misses(selector: Selector, parts: Sequence[Part], depths: int) -> str:
    """Return a hint for a selector that selects nothing."""
    covered = [part for part in parts if selector.covers(part, depths)]
    gated = sorted({gate for part in covered for gate in part.gates})
    if selector.gates and covered and gated:
        own = ", ".join(gated)
        near = _close(selector.gates[0], gated)
        return f"the layers that it names have other gates: {own}{near}"
    if selector.gates and covered:
        names = list(dict.fromkeys(_module(part) for part in covered))
        kinds = sorted({part.layer for part in covered})
        having = list(dict.fromkeys(_module(part) for part in parts if part.gates))
        fix = f"layers with gates: {_some(having)}" if having else "no layer here has gates"
        gate = selector.gates[0]
        if any(gate in _module(part).split(".") for part in covered):
            fix += f". Here {gate} is a separate layer: write '*{gate}'"
        return f"{_some(names)} ({', '.join(kinds)}) has no gates; {fix}"
    wanted = [test for test in selector.tests if not test.startswith("@")]
    known = list(dict.fromkeys(n for p in parts for full in p.names for n in prefixes(full)))
    if wanted:
        close = _nearest(wanted[0], known)
        return (
            f"did you mean {' or '.join(map(repr, close))}?" if close else f"known: {_some(known)}"
        )
    kinds = sorted({f"@{part.kind}" for part in parts if part.kind != "other"})
    return f"the model has {', '.join(kinds)} in {depths} layers"


def _module(part: Part) -> str:
    return part.name.rpartition(".")[0] or part.name


def _nearest(pattern: str, known: list[str]) -> list[str]:
    """Return the names nearest to a pattern, read without its wildcards."""
    bare = pattern.strip("*?.").replace("*", "")
    close = difflib.get_close_matches(bare, known, n=3, cutoff=0.55)
    return close or [name for name in known if bare and bare.lower() in name.lower()][:3]


def _close(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def _some(names: Sequence[str], most: int = 6) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, … ({len(names)} in all)"
