"""What the user can do next, worded as what to type."""

from __future__ import annotations

import shlex
from pathlib import Path

from etude.errors import EtudeError, Interrupted
from etude.next_step import AcceptChanges, NextStep, NextStepNote


def told(said: BaseException | str) -> str:
    """Return the message of an error, or one of its notes, with what to type.

    >>> from etude.next_step import SavedState
    >>> told(Interrupted("stopped", SavedState("train", Path("a run"), reference="digits-mlp")))
    "stopped. Go on with: etude train --resume 'a run'"
    """
    if isinstance(said, (EtudeError, Interrupted, NextStepNote)) and said.next_step is not None:
        return f"{said.said}. {worded(said.next_step)}"
    return str(said)


def worded(step: NextStep) -> str:
    """Return the sentence that names the command or the option."""
    if isinstance(step, AcceptChanges):
        return "Or go on all the same with --accept-changes"
    command = f"etude {step.verb} --resume {quoted(step.folder)}"
    # The folder of a task that nothing names keeps no note of it.
    return f"Go on with: {command}{'' if step.reference is not None else ' --task file.py:name'}"


def quoted(folder: Path) -> str:
    """Return a folder as it can be pasted into a shell."""
    return shlex.quote(str(folder))
