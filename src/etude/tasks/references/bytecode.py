"""What compiled code reads, assigns and changes, told from its instructions; it is not run."""

from __future__ import annotations

import dis
from types import CodeType

CHANGING = {
    *("append", "extend", "insert", "remove", "pop", "clear", "sort", "reverse", "add", "discard"),
    *("update", "setdefault", "popitem"),
}
"""Methods that change a list, a table or a set."""


def changes_in_place(code: CodeType) -> bool:
    """Return whether code may change a list, a table or a tensor in place."""
    in_place = any(
        name in CHANGING or (name.endswith("_") and not name.endswith("__"))
        for name in code.co_names
    )
    stores = any(
        instruction.opname in ("STORE_SUBSCR", "DELETE_SUBSCR")
        for instruction in dis.get_instructions(code)
    )
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return in_place or stores or any(map(changes_in_place, inner))


def has_docstring(code: CodeType) -> bool:
    """Return whether the first constant is a docstring, which is left out."""
    return (
        bool(code.co_consts) and isinstance(code.co_consts[0], str) and code.co_name != "<lambda>"
    )


def global_names(code: CodeType) -> tuple[set[str], set[str]]:
    """Return the global names that code reads, and those that it assigns, such as counters."""
    read: set[str] = set()
    stored: set[str] = set()
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            read.add(str(instruction.argval))
        elif instruction.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            stored.add(str(instruction.argval))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inner = global_names(constant)
            read |= inner[0]
            stored |= inner[1]
    return read, stored
