"""The folder of a tuning: the request, the result, and a run folder for every trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from etude import files
from etude.errors import StorageError, shown
from etude.storage import layout, task_digests
from etude.storage.run_folder import RunFolder
from etude.tasks.references.fingerprint import Parts
from etude.tasks.references.ref import TaskRef


@dataclass(frozen=True)
class TuningFolder:
    """The folder of one tuning. It is also the run folder of the finished run.

    Attributes:
        path: Its path; it need not exist yet.
    """

    path: Path

    @property
    def run(self) -> RunFolder:
        """The same folder, as the run folder of the finished run."""
        return RunFolder(self.path)

    @property
    def begun(self) -> bool:
        """Whether the folder belongs to a tuning."""
        return self.file.exists()

    @property
    def file(self) -> Path:
        """The path of the tuning's file, for messages."""
        return self.path / layout.TUNING

    def claim(self, request: Mapping[str, Any], parts: Parts, ref: TaskRef | None = None) -> None:
        """Claim the folder for a new tuning.

        Args:
            request: The request, as values that JSON can represent.
            parts: The digests of its task.
            ref: The reference of its task, if it has one.

        Raises:
            StorageError: If the folder cannot be written, or already holds a run.
        """
        files.make_folder(self.path)
        self.run.refuse_taken()
        self.run.task.begin(ref)
        files.write_json(self.file, {"request": dict(request), "parts": dict(parts)})

    def table(self) -> dict[str, Any]:
        """Return the contents of the tuning's file, which may come from an unknown source.

        Raises:
            StorageError: If the file is missing or damaged.
        """
        return files.read_table(self.file, f"the {self.file.stem}")

    def reopen(self, request: Mapping[str, Any]) -> None:
        """Write the new request; the result of an earlier request is kept."""
        table = self.table()
        if table.get("request") == request:
            return
        earlier = [*_list(table, "earlier"), *([table["result"]] if "result" in table else [])]
        kept = {name: value for name, value in table.items() if name != "result"}
        files.write_json(self.file, {**kept, "request": dict(request), "earlier": earlier})

    def earlier(self) -> list[Any]:
        """Return the results of earlier requests, that of the smallest budget first."""
        return _list(self.table(), "earlier")

    def check_task(self, parts: Parts, *, accept: bool) -> None:
        """Raise if the task is not the tuning's, or note that the change was accepted.

        Raises:
            StorageError: If a part is known to have changed, or its files could not be written; an
                older folder has no digests, which is warned of.
        """
        self.run.refuse_blocked()
        table = self.table()
        if "parts" not in table:
            task_digests.warn_of_none(self.file)
        kept = task_digests.read_parts(table.get("parts", {}), self.file)
        found = task_digests.refuse_changed(self.path, kept, parts, accept=accept)
        if found:
            notes = [*_list(table, "accepted"), {"parts": found}]
            files.write_json(self.file, {**table, "parts": dict(parts), "accepted": notes})

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write the result into the tuning's file."""
        table = self.table() if self.begun else {}
        files.write_json(self.file, {**table, "result": dict(result)})

    def trial(self, name: str) -> RunFolder:
        """Return the folder of a trial.

        Args:
            name: The name of the trial.
        """
        place = self.path / layout.TRIALS
        files.check_inner_folder(place, "the folder of trials")
        return RunFolder(files.check_inner_folder(place / name, "the folder of a trial"))

    def within(self, name: str) -> Path:
        """Return the folder with a name from the tuning's file, if it is inside the folder.

        Args:
            name: The name, as returned by `trial_place`; it may come from an unknown source.

        Raises:
            StorageError: If it is outside the folder.
        """
        place = PurePosixPath(name)
        if place.is_absolute() or ".." in place.parts or "\\" in name or "\0" in name:
            raise StorageError(f"the trial {shown(name)} is outside the folder")
        return self.path / Path(place)


def trial_place(name: str) -> str:
    """Return the path of a trial inside the folder of its tuning.

    >>> trial_place("lr-0.1")
    'trials/lr-0.1'
    """
    return f"{layout.TRIALS}/{name}"


def _list(table: Mapping[str, Any], name: str) -> list[Any]:
    """Return a list from a table of an unknown source; empty if the value is not a list."""
    found = table.get(name)
    return found if isinstance(found, list) else []
