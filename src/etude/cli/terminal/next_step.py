"""The text of what the user can do next, as a command to type."""

from __future__ import annotations

import shlex
from pathlib import Path

from etude.errors import EtudeError, Interrupted
from etude.next_step import (
    AcceptChanges,
    NearestSchedule,
    NextStep,
    NextStepNote,
    StartedStudy,
)


def message_of(said: BaseException | str) -> str:
    """Return the message of an error, or of one of its notes, with the command to type next.

    >>> from etude.next_step import SavedState
    >>> saved = SavedState("train", Path("a run"), reference="digits-mlp")
    >>> message_of(Interrupted("stopped", saved))
    "stopped. Go on with: etude train --resume 'a run'"
    """
    if isinstance(said, (EtudeError, Interrupted, NextStepNote)) and said.next_step is not None:
        return f"{said.said}. {next_sentence(said.next_step)}"
    return str(said)


def next_sentence(step: NextStep) -> str:
    """Return the sentence that names the command or the option."""
    if isinstance(step, AcceptChanges):
        return "Or accept the changes with --accept-changes"
    if isinstance(step, NearestSchedule):
        place = step.place or "the recipe file"
        return (
            "Allow the difference with --nearest, or use its own: write "
            f'schedule = "{step.schedule}" in {place}'
        )
    if isinstance(step, StartedStudy):
        given = {"storage": step.storage, **step.settings}
        options = "".join(f" --{name} {shlex.quote(str(value))}" for name, value in given.items())
        return f"Go on with: etude study resume {shlex.quote(step.name)}{options}"
    command = f"etude {step.verb} --resume {quoted(step.folder)}"
    # If the task has no reference, the folder does not name it.
    return f"Go on with: {command}{'' if step.reference is not None else ' --task file.py:name'}"


def quoted(folder: Path) -> str:
    """Return the path of a folder, quoted for a shell."""
    return shlex.quote(str(folder))
