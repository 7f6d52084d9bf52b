"""What the user can do next, as facts: Python and the command line each word it in their own way.

The library raises the facts. A message of Python's names the call;
`etude.cli.terminal.next_step` turns the same facts into the command to type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Verb = Literal["train", "tune", "grid", "population"]


@dataclass(frozen=True)
class SavedState:
    """A run or a tuning that is saved in a folder and can go on.

    Attributes:
        verb: What was called.
        folder: Where it is saved.
        step: Updates done; None for a tuning, whose trials stand at different ones.
        length: Updates of the whole run; None for a tuning.
        signal: The signal that stopped it, such as 'SIGINT'; None where none did.
        reference: Names the task outside this process; None for one that was put together in a
            program.
        options: What the reference is called with.
    """

    verb: Verb
    folder: Path
    step: int | None = None
    length: int | None = None
    signal: str | None = None
    reference: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def in_python(self) -> str:
        """Return the sentence that names the call.

        >>> SavedState("train", Path("runs/a")).in_python()
        "Go on with: etude.train(task, folder='runs/a', resume=True)"
        >>> SavedState("tune", Path("b"), reference="digits-mlp", options={"width": 8}).in_python()
        "Go on with: etude.tune(etude.tasks.load('digits-mlp', width=8), folder='b', resume=True)"
        """
        task = "task"
        if self.reference is not None:
            options = "".join(f", {name}={value!r}" for name, value in self.options.items())
            task = f"etude.tasks.load({self.reference!r}{options})"
        return f"Go on with: etude.{self.verb}({task}, folder={str(self.folder)!r}, resume=True)"


@dataclass(frozen=True)
class NearestSchedule:
    """Exporting a recipe whose schedule the other program does not have.

    Attributes:
        schedule: The text of the nearest schedule that the program has.
        place: Where the recipe's schedule can be changed, if known.
    """

    schedule: str
    place: str | None = None

    def in_python(self) -> str:
        """Return the sentence that names the argument and the field.

        >>> NearestSchedule("cosine()").in_python()
        "Allow the difference with nearest=True, or use its own: Recipe(schedule='cosine()')"
        """
        return (
            "Allow the difference with nearest=True, or use its own: "
            f"Recipe(schedule={self.schedule!r})"
        )


@dataclass(frozen=True)
class AcceptChanges:
    """Going on although data, model or loss are not those of the run."""

    def in_python(self) -> str:
        """Return the sentence that names the argument."""
        return "Or accept the changes with accept_changes=True"


@dataclass(frozen=True)
class StartedStudy:
    """A study whose trials are stored as they end, and that can go on.

    Attributes:
        name: Its name.
        storage: Its database.
        settings: How it was trained, where that is not as usual: 'engine', 'on', 'workers'.
    """

    name: str
    storage: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def in_python(self) -> str:
        """Return the sentence that names the call.

        >>> StartedStudy("rates", "studies.db", {"workers": 2}).in_python()
        "Go on with: etude.study(plan, storage='studies.db', workers=2)"
        """
        more = "".join(f", {name}={value!r}" for name, value in self.settings.items())
        return f"Go on with: etude.study(plan, storage={self.storage!r}{more})"


NextStep = SavedState | AcceptChanges | NearestSchedule | StartedStudy


def sentence(said: str, step: NextStep | None) -> str:
    """Return what was said, and after it what to do next in Python.

    >>> sentence("stopped", SavedState("tune", Path("a")))
    "stopped. Go on with: etude.tune(task, folder='a', resume=True)"
    """
    return said if step is None else f"{said}. {step.in_python()}"


class NextStepNote(str):
    """A note for an error (`add_note`) that keeps its facts.

    Attributes:
        said: The note without what to do next.
        next_step: The facts.
    """

    said: str
    next_step: NextStep

    def __new__(cls, said: str, next_step: NextStep) -> NextStepNote:
        """Build the text of the note."""
        note = super().__new__(cls, sentence(said, next_step))
        note.said, note.next_step = said, next_step
        return note
