"""Every error Etude raises: the message names the value, the bound and the fix."""

from __future__ import annotations

import difflib
import re
import traceback
from collections.abc import Iterable
from pathlib import Path

LONGEST_MESSAGE = 1_200
"""Characters of an error's message; a longer one loses its middle, and keeps the fix at its end."""

LONGEST_WORD = 400
"""Characters without a space in a message, enough for the path of a file."""

LONGEST_NAME = 100
"""Characters of a name that is compared with the known ones: comparing takes their product."""


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
    """Return a value as an error shows it: its `repr`, shortened, whatever the value is.

    >>> shown("x" * 100, 20)
    "'xxxxxxxxxxxx...xxx'"
    """
    try:
        # Only the start of a long text is written out: its whole `repr` may be huge.
        if isinstance(value, str) and len(value) > 4 * most:
            value = value[: 3 * most] + value[len(value) - most :]
        return shorten(repr(value), most)
    except Exception:  # noqa: BLE001 - a broken repr must not hide the error being reported
        return f"<{type(value).__name__}>"


def _readable(message: str) -> str:
    """Shorten the words of a message that nobody would read, and then the message."""
    words = re.sub(rf"\S{{{LONGEST_WORD + 1},}}", lambda found: shorten(found[0]), message)
    return shorten(words, LONGEST_MESSAGE)


class EtudeError(Exception):
    """Base of all errors raised on purpose by Etude; its message is never very long."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(_readable(a) if isinstance(a, str) else a for a in args))


class BadValueError(EtudeError, ValueError):
    """A value lies outside what is allowed; the message names value, bound and fix."""


class BadTypeError(EtudeError, TypeError):
    """A value is of a kind that cannot be used here."""


class UnknownNameError(BadValueError):
    """A name that is in no table; the message offers the nearest ones."""


class TaskError(EtudeError, RuntimeError):
    """The user's model, data, loss or step does not fit together."""


class ObserverError(EtudeError, RuntimeError):
    """An observer of the user's own failed, or returned what is no number."""


class StorageError(EtudeError, OSError):
    """A folder or file cannot be written, or what it holds cannot be trusted."""


class MissingExtraError(EtudeError, ImportError):
    """An optional dependency is not installed; the message says what to install."""


class MovedError(EtudeError, AttributeError):
    """A public name has another home now; the message says which."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM: the state is saved, and the message says how to resume.

    A `KeyboardInterrupt`, so that an `except Exception` of the caller does not swallow it.
    """


def unknown_name(kind: str, name: object, known: Iterable[str]) -> UnknownNameError:
    """Build the error for a name that is in no table.

    >>> print(unknown_name("optimizer", "adamv", ["adam", "adamw", "sgd"]))
    unknown optimizer 'adamv': did you mean 'adam' or 'adamw'? Known: adam, adamw, sgd
    """
    names = sorted(shorten(str(one), LONGEST_NAME) for one in known)
    near: list[str] = []
    if len(text := str(name)) <= LONGEST_NAME:
        near = difflib.get_close_matches(text.lower(), names, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    return UnknownNameError(f"unknown {kind} {shown(name)}: {hint}Known: {', '.join(names)}")


def where(error: BaseException) -> str:
    """Return where the user's own code failed, ' (file.py:LINE)'; empty if none of it did.

    That is the innermost frame which is neither torch's nor ours.

    >>> where(ValueError("raised nowhere"))
    ''
    """
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in ("torch", "etude"):
            place = f" ({Path(frame.f_code.co_filename).name}:{line})"
    return place
