"""A task's serialisable identity: which object, made with which options, from which source."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from pathlib import Path
from types import MappingProxyType
from typing import Any

from etude.errors import StorageError, shown
from etude.tasks.table import rows


@dataclass(frozen=True)
class TaskRef:
    """What names a task outside this process, as a run folder does.

    Attributes:
        reference: A name in the table, '/path/to/file.py:name', or 'package.module:name'.
        options: What the object is called with: values that JSON can hold.
        digest: Of the source file that the reference names, empty for a bundled task. What the
            file imports is not part of it.

    >>> TaskRef.of("digits-mlp", {"width": 8}).bundled
    True
    """

    reference: str
    options: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))

    @classmethod
    def of(cls, reference: str, options: Mapping[str, Any]) -> TaskRef:
        """Return the reference as it can be used from any folder, with its source's digest now."""
        place, colon, name = reference.rpartition(":")
        if colon and is_file(place):
            reference = f"{Path(place).expanduser().resolve()}:{name}"
        return cls(reference, options, _digest(source_files(reference)))

    @property
    def bundled(self) -> bool:
        """Whether it names a task of the table: those come with Etude."""
        return self.reference in {row.name for row in rows()}

    def plain(self) -> dict[str, Any]:
        """Return it as values that JSON can hold."""
        return {
            "reference": self.reference,
            "options": dict(self.options),
            "digest": self.digest,
        }

    @classmethod
    def from_plain(cls, plain: object, where: str) -> TaskRef:
        """Read what `plain` returned; it may come from a stranger.

        Args:
            plain: What was read.
            where: Of which file, for the error.

        Raises:
            StorageError: If it is anything else.
        """
        if not isinstance(plain, dict):
            raise StorageError(f"{where} is damaged: it holds no table of a task")
        reference, options = plain.get("reference"), plain.get("options", {})
        digest = plain.get("digest", "")
        for name, value, kind in (
            ("reference", reference, str),
            ("options", options, dict),
            ("digest", digest, str),
        ):
            if not isinstance(value, kind):
                raise StorageError(f"{where} is damaged: its {name} is {shown(value)}")
        return cls(str(reference), dict(options), str(digest))

    @property
    def key(self) -> str:
        """A digest of all of it.

        >>> TaskRef("mine.py:task").key != TaskRef("mine.py:task", {"width": 3}).key
        True
        """
        text = json.dumps(self.plain(), sort_keys=True, separators=(",", ":"), default=repr)
        return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def is_file(place: str) -> bool:
    """Return whether the part of a reference before the colon is a file, not a module.

    >>> is_file("mine.py"), is_file("package.module")
    (True, False)
    """
    return place.endswith(".py") or "/" in place or "\\" in place


def source_files(reference: str) -> list[Path]:
    """Return the files that loading a reference would run, without importing anything.

    For a module these are its own file and the `__init__.py` of the packages that contain it.
    """
    place, colon, _ = reference.rpartition(":")
    if not colon:
        return []
    if is_file(place):
        path = Path(place).expanduser()
        return [path] if path.is_file() else []
    found: list[Path] = []
    folders: list[str] = [str(Path.cwd()), *sys.path]
    parts = place.split(".")
    for i in range(len(parts)):
        try:
            spec = PathFinder.find_spec(".".join(parts[: i + 1]), folders)
        except (ImportError, ValueError):
            return []
        if spec is None:
            return []
        if spec.origin is not None and Path(spec.origin).is_file():
            found.append(Path(spec.origin))
        folders = list(spec.submodule_search_locations or ())
    return found


def _digest(paths: list[Path]) -> str:
    """Return a digest of files; empty if there are none."""
    if not paths:
        return ""
    digest = hashlib.sha256()
    for path in paths:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise StorageError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()
