"""Every error Etude raises: the message names the value, the bound and the fix."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable
from pathlib import Path


class EtudeError(Exception):
    """Base of all errors raised on purpose by Etude."""


class BadValueError(EtudeError, ValueError):
    """A value lies outside what is allowed; the message names value, bound and fix."""


class BadTypeError(EtudeError, TypeError):
    """A value is of a kind that cannot be used here."""


class UnknownNameError(BadValueError):
    """A name that is in no table; the message offers the nearest ones."""


class TaskError(EtudeError, RuntimeError):
    """The user's model, data, loss or step does not fit together."""


class StorageError(EtudeError, OSError):
    """A folder or file cannot be written, or what it holds cannot be trusted."""


class MissingExtraError(EtudeError, ImportError):
    """An optional dependency is not installed; the message says what to install."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM: the state is saved, and the message says how to resume.

    A `KeyboardInterrupt`, so that an `except Exception` of the caller does not swallow it.
    """


def unknown_name(kind: str, name: object, known: Iterable[str]) -> UnknownNameError:
    """Build the error for a name that is in no table.

    >>> print(unknown_name("optimizer", "adamv", ["adam", "adamw", "sgd"]))
    unknown optimizer 'adamv': did you mean 'adam' or 'adamw'? Known: adam, adamw, sgd
    """
    names = sorted(known)
    near = difflib.get_close_matches(str(name).lower(), names, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    return UnknownNameError(f"unknown {kind} {name!r}: {hint}Known: {', '.join(names)}")


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
