"""All errors that Etude raises; each message names the value, the bound and the fix."""

from __future__ import annotations

import difflib
import math
import operator
import re
import traceback
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from etude.next_step import NextStep, SavedState, StartedStudy, sentence

E = TypeVar("E", bound=StrEnum)

LONGEST_MESSAGE = 1_200
"""The longest message in characters; a longer one loses its middle and keeps the fix at its end."""

LONGEST_WORD = 400
"""The longest word in a message in characters, enough for a file's path."""

OTHER_NAMES = {"fp16": "float16", "half": "float16", "bf16": "bfloat16", "fp32": "float32"}
"""What other programs call something, and its name here; tried where it is among the known."""

LONGEST_NAME = 100
"""The longest name that is compared with known names; a comparison takes quadratic time."""


def shorten(text: str, most: int = 80) -> str:
    """Return a text of at most `most` characters: its start, '...', and a little of its end.

    >>> shorten("x" * 30 + "yz", 16)
    'xxxxxxxxxx...xyz'
    """
    if len(text) <= most:
        return text
    end = (most - 3) // 4
    return f"{text[: most - 3 - end]}...{text[len(text) - end :]}"


def shown(value: object, most: int = 80) -> str:
    """Return a value's `repr`, shortened, for use in an error message.

    >>> shown("x" * 100, 20)
    "'xxxxxxxxxxxx...xxx'"
    """
    try:
        # Only the start of a long text is converted, since its whole `repr` may be huge.
        if isinstance(value, str) and len(value) > 4 * most:
            value = value[: 3 * most] + value[len(value) - most :]
        return shorten(repr(value), most)
    except Exception:  # noqa: BLE001 - a broken repr must not hide the error being reported
        return f"<{type(value).__name__}>"


def _readable(message: str) -> str:
    """Shorten overlong words of a message, and then the message."""
    words = re.sub(rf"\S{{{LONGEST_WORD + 1},}}", lambda found: shorten(found[0]), message)
    return shorten(words, LONGEST_MESSAGE)


class EtudeError(Exception):
    """Base class of all errors that Etude raises on purpose; messages have a bounded length.

    Attributes:
        said: The message without what to do next.
        next_step: What to do next, as facts; None where the message says it already.
    """

    said: str
    next_step: NextStep | None = None

    def __init__(self, *args: object, next_step: NextStep | None = None) -> None:
        told = [_readable(a) if isinstance(a, str) else a for a in args]
        self.said = str(told[0]) if told else ""
        if next_step is not None:
            self.next_step = next_step
            told = [sentence(self.said, next_step)]
        super().__init__(*told)


class BadValueError(EtudeError, ValueError):
    """A value is out of bounds; the message names the value, the bound and the fix."""


class BadTypeError(EtudeError, TypeError):
    """A value is of a type that cannot be used here."""


class UnknownNameError(BadValueError):
    """A name is unknown; the message lists the nearest known names."""


class TaskError(EtudeError, RuntimeError):
    """The user's model, data, loss or step does not fit together."""


class ObserverError(EtudeError, RuntimeError):
    """An observer of the user's own failed, or returned what is no number."""


class StorageError(EtudeError, OSError):
    """A folder or file cannot be written, or its content is damaged or not trusted."""


class WorldError(EtudeError, RuntimeError):
    """Another process of the same run failed, or does not answer."""


class MissingExtraError(EtudeError, ImportError):
    """An optional dependency is not installed; the message says what to install."""


class MovedError(EtudeError, AttributeError):
    """A public name was moved; the message gives the new place."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM: the state is saved, and the message says how to resume.

    It is a `KeyboardInterrupt`, so that an `except Exception` of the caller does not catch it.

    Attributes:
        said: The message without how to resume.
        next_step: What is saved, where, and how far it came; None where nothing is.

    >>> from pathlib import Path
    >>> str(Interrupted("stopped", SavedState("train", Path("runs/a"))))
    "stopped. Go on with: etude.train(task, folder='runs/a', resume=True)"
    """

    def __init__(self, said: str = "", next_step: SavedState | StartedStudy | None = None) -> None:
        self.said, self.next_step = said, next_step
        super().__init__(sentence(said, next_step))


def nearest_names(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Return the known names that a misspelt one may mean, the likeliest first.

    They are ordered by edit distance: the least number of letters replaced, added, left out, or
    swapped with their neighbour. At equal distance, names of the same length come first.

    Args:
        name: The misspelt name; one of more than `LONGEST_NAME` characters has no near name.
        known: The names to choose from.
        most: The largest number of names.

    >>> from etude.optimizers import ROWS
    >>> nearest_names("adamv", ROWS)
    ['adamw', 'adam', 'radam']
    """
    if len(name) > LONGEST_NAME:
        return []
    text, names = name.lower(), list(known)
    near = difflib.get_close_matches(text, names, n=len(names) or 1, cutoff=0.6)
    near.sort(key=lambda one: (_edits(text, one.lower()), abs(len(one) - len(text))))
    same = [one for one in names if one == OTHER_NAMES.get(text)]
    return (same or near)[:most]


def _edits(one: str, other: str) -> int:
    """Return the edit distance with swaps of neighbours (optimal string alignment)."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        earlier, before, row = before, row, [i]
        for j, target in enumerate(other, 1):
            best = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != target))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == target:
                best = min(best, earlier[j - 2] + 1)
            row.append(best)
    return row[-1]


def unknown_name(kind: str, name: object, known: Iterable[str]) -> UnknownNameError:
    """Return the error for an unknown name.

    >>> print(unknown_name("optimizer", "adamv", ["adam", "adamw", "sgd"]))
    unknown optimizer 'adamv': did you mean 'adamw' or 'adam'? Known: adam, adamw, sgd
    >>> print(unknown_name("study", "rates", []))
    unknown study 'rates': there is none
    """
    return UnknownNameError(f"unknown {kind} {shown(name)}: {_known(name, known)}")


def lacks(owner: str, kind: str, name: object, known: Iterable[str]) -> UnknownNameError:
    """Return the error for a name that something does not have.

    >>> print(lacks("my_project.py", "object", "tsk", ["task", "model"]))
    my_project.py has no object 'tsk': did you mean 'task'? Known: model, task
    """
    return UnknownNameError(f"{owner} has no {kind} {shown(name)}: {_known(name, known)}")


def _known(name: object, known: Iterable[str]) -> str:
    """Return the names that a wrong one may mean, and all that are known; or that there is none."""
    names = sorted(shorten(str(one), LONGEST_NAME) for one in known)
    if not names:
        return "there is none"
    near = nearest_names(str(name), names)
    hint = f"did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    return f"{hint}Known: {', '.join(names)}"


def member(kind: type[E], name: object, what: str) -> E:
    """Return the member of an enumeration that a word names.

    Args:
        kind: The enumeration.
        name: The word, or the member itself.
        what: What the word stands for, as the error says it.

    Raises:
        UnknownNameError: If no member goes by that word; the message lists them.

    >>> from enum import StrEnum
    >>> Side = StrEnum("Side", ["LEFT", "RIGHT"])
    >>> member(Side, "left", "side") is Side.LEFT
    True
    """
    try:
        return kind(name)  # type: ignore[arg-type]
    except ValueError:
        raise unknown_name(what, name, kind) from None


def is_flag(value: object) -> bool:
    """Return whether a value is True or False, of Python, NumPy or torch."""
    return isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool")


def as_whole(value: Any) -> int | None:
    """Return a whole number of any library as a plain int; None if it is none.

    Whatever has `__index__` is one, such as a NumPy integer; True and False are none.

    >>> as_whole(40), as_whole(True), as_whole(40.0), as_whole("40")
    (40, None, None, None)
    """
    try:
        return None if is_flag(value) else operator.index(value)
    except (TypeError, RuntimeError):
        return None


def as_real(value: Any) -> float | None:
    """Return a real number of any library as a plain float; None if it is none.

    True, False and text are none. A whole number beyond the largest float is infinite.

    >>> as_real(1), as_real(0.1), as_real(False), as_real("0.1"), as_real(1j), as_real(10**400)
    (1.0, 0.1, None, None, None, inf)
    """
    try:
        return None if is_flag(value) or isinstance(value, (str, bytes)) else float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    except (TypeError, ValueError, RuntimeError):
        return None


def check_real(name: str, value: object, such: str) -> float:
    """Return a real number of any library as a plain float.

    Args:
        name: What it is called, as the user gave it.
        value: The value; whatever `float` takes, such as a NumPy number, but no text.
        such: What to give, for the message.

    Raises:
        BadTypeError: If it is not a number; True and False are none.

    >>> check_real("budget", "3", "full runs, such as 3.0")
    Traceback (most recent call last):
    etude.errors.BadTypeError: budget='3' is not a number: give full runs, such as 3.0
    """
    found = as_real(value)
    if found is None:
        raise BadTypeError(f"{name}={shown(value)} is not a number: give {such}")
    return found


def kind_of(value: object) -> str:
    """Return the name of a value's type with its article.

    >>> kind_of(3), kind_of("x"), kind_of(None)
    ('an int', 'a str', 'a NoneType')
    """
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeioAEIO' else 'a'} {name}"


def check_whole(name: str, value: object, least: int) -> int:
    """Return a whole number of any library as a plain int; raise unless it is large enough.

    Args:
        name: What it is called, as the user gave it.
        value: The value; whatever has `__index__`, such as a NumPy integer.
        least: The smallest that is allowed.

    Raises:
        BadTypeError: If it is not a whole number; True and False are none.
        BadValueError: If it is too small.

    >>> check_whole("seeds", 0, 1)
    Traceback (most recent call last):
    etude.errors.BadValueError: seeds=0 is out of bounds: give at least 1
    """
    found = as_whole(value)
    if found is None:
        raise BadTypeError(f"{name}={shown(value)} is not a whole number")
    if found < least:
        raise BadValueError(f"{name}={found} is out of bounds: give at least {least}")
    return found


def where(error: BaseException) -> str:
    """Return the place at which the user's own code failed, as ' (file.py:LINE)', or ''.

    It is the innermost frame that belongs neither to torch nor to Etude.

    >>> where(ValueError("raised nowhere"))
    ''
    """
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in ("torch", "etude"):
            place = f" ({Path(frame.f_code.co_filename).name}:{line})"
    return place
