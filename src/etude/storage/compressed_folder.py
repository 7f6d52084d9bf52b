"""The folder of a compressed model: what it holds, and how it is read back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from etude import files
from etude.errors import StorageError
from etude.storage import layout
from etude.storage.task_note import TaskNote
from etude.tasks.references.ref import TaskRef


def file_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Return tensors as the content of a safetensors file."""
    content: bytes = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    return content


@dataclass(frozen=True)
class CompressedFolder:
    """The folder of one compressed model.

    Attributes:
        path: Its path; it need not exist yet.
    """

    path: Path

    @property
    def taken(self) -> bool:
        """Whether it holds a compressed model already, or a run of any kind."""
        owners = (layout.COMPRESSION, layout.RECIPE, layout.TUNING, layout.GRID, layout.MODEL)
        return any((self.path / name).exists() for name in owners)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Create the folder before anything is computed; it is deleted again if that fails.

        Raises:
            StorageError: If it cannot be written, or holds something already.
        """
        if self.taken or TaskNote(self.path).foreign:
            raise StorageError(
                f"{str(self.path)!r} already holds a model or a run: choose another folder"
            )
        files.refuse_folders(self.path, layout.FILES)
        files.make_folder(self.path)
        try:
            yield
        except BaseException:
            with suppress(OSError):  # it is not empty, and was not made here
                self.path.rmdir()
            raise

    @property
    def report(self) -> Path:
        """The path of its report."""
        return self.path / layout.REPORT

    @property
    def task(self) -> TaskRef | None:
        """The reference of its task, if it names one."""
        note = TaskNote(self.path)
        return note.read()

    def write(
        self, table: Mapping[str, Any], tensors: Mapping[str, Tensor], ref: TaskRef | None
    ) -> None:
        """Write the model; the folder counts as one from the last file on."""
        TaskNote(self.path).begin(ref)
        files.write_bytes(self.path / layout.MODEL, file_bytes(tensors))
        files.write_json(self.path / layout.COMPRESSION, dict(table))

    def read(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return what `write` was given.

        Raises:
            StorageError: If the folder holds no compressed model, or a file is damaged.
        """
        path = self.path / layout.COMPRESSION
        if not path.exists():
            raise StorageError(
                f"{str(self.path)!r} holds no compressed model: there is no {layout.COMPRESSION} "
                "in it"
            )
        table = files.read_table(path, "the description of a compressed model")
        weights = self.path / layout.MODEL
        try:
            return table, load_file(files.regular(weights, "the model"))
        except (RuntimeError, ValueError, KeyError, SafetensorError) as error:
            raise StorageError(f"{str(weights)!r} is damaged: {error}") from error
