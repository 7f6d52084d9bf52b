"""The folder of a tuning: what was asked, what was found, and a run folder for every trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from etude import files
from etude.errors import StorageError, shown
from etude.storage import layout
from etude.storage import task_digests as sameness
from etude.storage.run_folder import RunFolder
from etude.tasks.fingerprint import Parts
from etude.tasks.ref import TaskRef


@dataclass(frozen=True)
class TuningFolder:
    """The folder of one tuning. Its finished run lies in the same folder, as in a run folder.

    Attributes:
        path: Where it lies; it need not exist yet.
    """

    path: Path

    @property
    def run(self) -> RunFolder:
        """The same folder as that of the finished run."""
        return RunFolder(self.path)

    @property
    def begun(self) -> bool:
        """Whether a tuning has taken it."""
        return self.file.exists()

    @property
    def file(self) -> Path:
        """What only the folder of a tuning holds; for messages."""
        return self.path / layout.TUNING

    def claim(self, request: Mapping[str, Any], parts: Parts, ref: TaskRef | None = None) -> None:
        """Take the folder for a new tuning.

        Args:
            request: What is asked, as values that JSON can hold.
            parts: The digests of its task.
            ref: What names its task elsewhere, if anything does.

        Raises:
            StorageError: If the folder cannot be written, or already holds a run.
        """
        files.make_folder(self.path)
        self.run.refuse_taken()
        self.run.task.begin(ref, parts)
        files.write_json(self.file, {"request": dict(request), "parts": dict(parts)})

    def table(self) -> dict[str, Any]:
        """Return all that is kept of the tuning; it may come from a stranger.

        Raises:
            StorageError: If there is none, or it is damaged.
        """
        return files.read_table(self.file, "the tuning")

    def reopen(self, request: Mapping[str, Any]) -> None:
        """Note what is asked now; what was found for another request is kept beside it."""
        table = self.table()
        if table.get("request") == request:
            return
        earlier = [*_list(table, "earlier"), *([table["result"]] if "result" in table else [])]
        kept = {name: value for name, value in table.items() if name != "result"}
        files.write_json(self.file, {**kept, "request": dict(request), "earlier": earlier})

    def check_task(self, parts: Parts, *, accept: bool) -> None:
        """Refuse another task than the tuning's, or note that it was accepted.

        Raises:
            StorageError: If a part is known to be another one; an older folder cannot tell.
        """
        table = self.table()
        kept = sameness.read_parts(table.get("parts", {}), self.file)
        found = sameness.refuse_changed(self.path, kept, parts, accept=accept)
        if found:
            notes = [*_list(table, "accepted"), {"parts": found}]
            files.write_json(self.file, {**table, "parts": dict(parts), "accepted": notes})

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write the findings beside what was asked."""
        table = self.table() if self.begun else {}
        files.write_json(self.file, {**table, "result": dict(result)})

    def trial(self, name: str) -> RunFolder:
        """Return the folder of a trial.

        Args:
            name: What the trial is called.
        """
        return RunFolder(self.path / layout.TRIALS / name)

    def within(self, name: str) -> Path:
        """Return a folder that a file of the tuning names, if it leads nowhere else.

        Args:
            name: As `trial_place` returned it; it may come from a stranger.

        Raises:
            StorageError: If it leads out of the folder.
        """
        place = PurePosixPath(name)
        if place.is_absolute() or ".." in place.parts or "\\" in name or "\0" in name:
            raise StorageError(f"the trial {shown(name)} lies outside the folder")
        return self.path / Path(place)


def trial_place(name: str) -> str:
    """Return where a trial lies inside the folder of its tuning.

    >>> trial_place("lr-0.1")
    'trials/lr-0.1'
    """
    return f"{layout.TRIALS}/{name}"


def _list(table: Mapping[str, Any], name: str) -> list[Any]:
    """Return a list of a table that may come from a stranger; empty if it is none."""
    found = table.get(name)
    return found if isinstance(found, list) else []
