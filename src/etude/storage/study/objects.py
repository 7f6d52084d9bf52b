"""Files beside the database, named by the digest of their content: records and weights."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from safetensors.torch import load as load_tensors
from safetensors.torch import load_model, save_model
from torch import nn

from etude import files
from etude.errors import StorageError, shorten, shown
from etude.record import Record
from etude.storage.model_weights import fit_buffers

ENDING = ".safetensors"
"""A record is a safetensors file too: its series are the arrays, its JSON is the metadata."""

RECORD = "record"
"""The key of the metadata that holds a record's JSON."""

_DIGEST = re.compile("[0-9a-f]{64}")


class ObjectFolder:
    """The files of one study.

    A file is written before the database mentions it, and never changes: its name is the SHA-256
    digest of its content, which is checked whenever it is read.

    Args:
        path: The folder; it is created with its first file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._made: set[Path] = set()

    def put(self, contents: Iterable[bytes]) -> list[str]:
        """Write contents as files, durably, and return their digests.

        Raises:
            StorageError: If one cannot be written.
        """
        named = [(hashlib.sha256(content).hexdigest(), content) for content in contents]
        new: dict[Path, bytes] = {}
        for digest, content in named:
            path = self.place(digest)
            if path.parent not in self._made:
                self._check_folders(path.parent)
                files.make_folder(path.parent)
                self._made.add(path.parent)
            if not path.exists():
                new[path] = content
        files.write_together(new)
        return [digest for digest, _ in named]

    def read(self, digest: str, what: str) -> bytes:
        """Return the content of a file.

        Raises:
            StorageError: If it is missing, or its content has another digest.
        """
        path = files.regular(self.place(digest), what)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise StorageError(f"cannot read {what} {str(path)!r}: {error.strerror}") from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise StorageError(f"{what} {str(path)!r} is damaged: its digest does not match")
        return content

    def record(self, digest: str, what: str) -> Record:
        """Return the Record that a file holds.

        Raises:
            StorageError: If it is missing or damaged.
        """
        return record_of(self.read(digest, what), f"{what} {str(self.place(digest))!r}")

    def place(self, digest: str) -> Path:
        """Return the path of a digest, which may come from an unknown source.

        Raises:
            StorageError: If it is not a digest.
        """
        if not _DIGEST.fullmatch(digest):
            raise StorageError(f"{shown(digest)} is not the digest of a file: the row is damaged")
        # Sixteen folders: few enough that a group of files waits for few flushes of folders.
        return self.path / digest[0] / f"{digest}{ENDING}"

    def scratch(self) -> Path:
        """Return the path of a file for a library that can only write to files."""
        self._check_folders(self.path)
        return files.make_folder(self.path) / f".{os.getpid()}-{uuid.uuid4().hex}.tmp"

    def _check_folders(self, folder: Path) -> None:
        for one in {self.path, folder}:
            files.check_inner_folder(one, "the folder of the study's files")

    def delete(self) -> None:
        """Delete all files of the study."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._made.clear()


def record_bytes(record: Record) -> bytes:
    """Return a record as one safetensors file."""
    plain = json.dumps(record.plain(), sort_keys=True, separators=(",", ":"), allow_nan=False)
    content: bytes = save_arrays(record.arrays(), {RECORD: plain})
    return content


def record_of(content: bytes, where: str) -> Record:
    """Read what `record_bytes` wrote; it may come from an unknown source.

    Raises:
        StorageError: If it is not a record.
    """
    try:
        arrays = load_arrays(content)  # checks the header, which is read again for its metadata
        header = files.parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")].decode())
        plain = files.parse_json(header["__metadata__"][RECORD])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{where} is damaged: {type(error).__name__}: {error}") from error
    if not isinstance(plain, dict):
        raise StorageError(f"{where} is damaged: it holds no table of a record")
    return Record.checked(plain, lambda: arrays, where)


def weight_bytes(model: nn.Module, scratch: Path) -> bytes:
    """Return a model's weights as one safetensors file; tied weights are written once.

    Args:
        model: The network.
        scratch: A file to write to on the way; it is deleted.

    Raises:
        StorageError: If they cannot be written.
    """
    try:
        save_model(model, str(scratch))
        return scratch.read_bytes()
    except (OSError, SafetensorError) as error:
        raise StorageError(f"cannot write the weights of a trial: {error}") from error
    finally:
        scratch.unlink(missing_ok=True)


def load_weights_of(content: bytes, path: Path, model: nn.Module) -> None:
    """Load weights that `weight_bytes` returned into a model.

    Args:
        content: The content of the file, whose digest was checked.
        path: The file.
        model: The network; it must be built like the one that was trained.

    Raises:
        StorageError: If they are of another model.
    """
    try:
        tensors: dict[str, Any] = load_tensors(content)
        fit_buffers(model, tensors)
        load_model(model, str(path))
    except (RuntimeError, OSError, ValueError, KeyError, SafetensorError) as error:
        said = shorten(" ".join(str(error).split()), 300)
        raise StorageError(f"{str(path)!r} is damaged, or of another model: {said}") from error
