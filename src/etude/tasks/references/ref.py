"""A task's serialisable identity: which object, made with which options, from which source."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.machinery import PathFinder
from pathlib import Path
from types import MappingProxyType
from typing import Any

from etude.errors import StorageError, shown


@dataclass(frozen=True)
class TaskRef:
    """What names a task outside this process, as a run folder or a record does.

    Attributes:
        reference: A name in the table, '/path/to/file.py:name', or 'package.module:name'.
        options: What the object is called with: values that JSON can hold.
        digest: Of the source file that the reference names, empty for a bundled task. What the
            file imports is not part of it.
        built: Digest of the task that was built: data, model, loss, step and metric. Empty where
            it was not computed, or a part cannot be told.

    A fold of a cross-validation has no reference, although 'fold i of k' could name it: its run
    folder is inside its tuning's folder and is continued only by the tuning, which has the
    reference of the whole task and creates the same folds again. A worker process gets a task's
    parts, not its reference: it needs exactly the data, model and loss of the calling process,
    while a reference would load them again, from a file that may have changed.

    >>> ref = TaskRef.of("digits-mlp", {"width": 8})
    >>> TaskRef.from_plain(ref.plain(), "here") == ref
    True
    """

    reference: str
    options: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""
    built: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))

    def __hash__(self) -> int:
        return hash(self.key)

    def __reduce__(self) -> tuple[Any, ...]:
        return TaskRef, (self.reference, dict(self.options), self.digest, self.built)

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return f"TaskRef({self.reference!r}{options})"

    @classmethod
    def of(cls, reference: str, options: Mapping[str, Any]) -> TaskRef:
        """Return the reference as it can be used from any folder, with its source's digest now."""
        place, colon, name = reference.rpartition(":")
        if colon and is_file(place):
            reference = f"{Path(place).expanduser().resolve()}:{name}"
        return cls(reference, options, _digest(source_files(reference)))

    @classmethod
    def told(cls, reference: str, options: Mapping[str, Any]) -> TaskRef | None:
        """Return what `of` does, or None where JSON cannot hold the options or no file is read.

        >>> TaskRef.told("mine.py:make", {"net": object()}) is None
        True
        """
        try:
            kept = json.loads(json.dumps(dict(options), allow_nan=False))
            return cls.of(reference, kept) if kept == dict(options) else None
        except (TypeError, ValueError, OSError, RecursionError):
            return None

    def of_parts(self, parts: Mapping[str, str | None]) -> TaskRef:
        """Return it with the digest of the task that it built.

        Args:
            parts: The task's `fingerprint`; a part that cannot be told leaves no digest.
        """
        known = all(part is not None for part in parts.values())
        return replace(self, built=_digest_json(dict(parts)) if known else "")

    @property
    def source(self) -> TaskRef:
        """The same without the digest of what it built: what names the code that is run."""
        return replace(self, built="")

    def plain(self) -> dict[str, Any]:
        """Return it as values that JSON can hold."""
        return {
            "reference": self.reference,
            "options": dict(self.options),
            "digest": self.digest,
            "built": self.built,
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
        digest, built = plain.get("digest", ""), plain.get("built", "")
        for name, value, kind in (
            ("reference", reference, str),
            ("options", options, dict),
            ("digest", digest, str),
            ("built", built, str),
        ):
            if not isinstance(value, kind):
                raise StorageError(f"{where} is damaged: its {name} is {shown(value)}")
        return cls(str(reference), dict(options), str(digest), str(built))

    @cached_property
    def key(self) -> str:
        """A digest of reference, options and source.

        >>> TaskRef("mine.py:task").key != TaskRef("mine.py:task", {"width": 3}).key
        True
        """
        named = {name: value for name, value in self.plain().items() if name != "built"}
        return _digest_json(named)


def title(reference: str) -> str:
    """Return what to call a task by its reference: the object, or the file of one called 'task'.

    >>> title("digits-cnn"), title("mine.py:wine"), title("src/mine.py:task"), title("a.b:task")
    ('digits-cnn', 'wine', 'mine', 'b')
    """
    place, _, name = reference.rpartition(":")
    if name != "task" or not place:
        return name
    return Path(place).stem if place.endswith(".py") else place.rpartition(".")[2]


def _digest_json(value: Mapping[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=repr)
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
