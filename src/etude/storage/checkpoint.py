"""Reads and writes checkpoints: safetensors and JSON, written atomically, with a digest."""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from etude import files
from etude.errors import StorageError, shown
from etude.storage.layout import STEP, TENSORS, TREE, checkpoint_name, step_of
from etude.storage.state_tree import flatten, unflatten

FORMAT = 2
"""Version 2 adds the layout of tensors in memory; otherwise the JSON equals that of version 1."""

KEPT = 2
"""The number of checkpoints kept: the newest, and the one before it in case that is damaged."""


def save(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write the checkpoint of one step, and delete all but the two newest.

    The tensors are written first, and the JSON with their digest last. The JSON completes the
    checkpoint.

    Raises:
        StorageError: If it cannot be written; earlier checkpoints do not change.
    """
    files.make_folder(folder)
    tree, tensors = flatten(state)
    path = folder / f"{checkpoint_name(step)}{TENSORS}"

    def write(temporary: Path) -> None:
        try:
            save_file(tensors, temporary)
        except SafetensorError as error:
            raise OSError(str(error)) from error

    files.write_atomic(path, write)
    body = {"step": step, "tensors": _digest(path), "state": tree}
    files.write_json(
        path.with_suffix(TREE), {"version": FORMAT, "sha256": _digest_json(body), "body": body}
    )
    _drop(folder, KEPT)


def keep_newest(folder: Path) -> None:
    """Delete all checkpoints except the newest."""
    _drop(folder, 1)


def _drop(folder: Path, count: int) -> None:
    kept = {checkpoint_name(step) for step in _steps(folder)[:count]}
    for old in (*folder.glob(f"{STEP}*"), *folder.glob(f".{STEP}*.tmp")):
        if old.stem not in kept:
            with contextlib.suppress(OSError):  # a remaining file is harmless
                old.unlink(missing_ok=True)


def load_newest(folder: Path) -> dict[str, Any] | None:
    """Return the newest complete state; None if there is no checkpoint.

    A damaged or half-written checkpoint causes a warning, and the one before it is used.

    Raises:
        StorageError: If there are checkpoints, but none of them is complete; or if one is a folder,
            in whose place none could be saved.
    """
    steps = _steps(folder)
    names = {checkpoint_name(step) for step in (*steps, *_steps(folder, TENSORS))}
    files.refuse_folders(folder, (f"{name}{end}" for name in names for end in (TREE, TENSORS)))
    halves = [step for step in _steps(folder, TENSORS) if step > max(steps, default=-1)]
    damaged = [
        f"checkpoint {str(folder / checkpoint_name(step))!r} is half-written: it has tensors and "
        f"no {TREE}"
        for step in halves
    ]
    for step in steps:
        try:
            state = _load(folder / f"{checkpoint_name(step)}{TREE}")
        except StorageError as error:
            damaged.append(str(error))
            continue
        _warn(damaged, f"step {step}")
        return state
    if len(damaged) > len(halves):
        raise StorageError(f"no checkpoint in {str(folder)!r} is whole: {'; '.join(damaged)}")
    _warn(damaged, "the start")
    return None


def _warn(damaged: list[str], place: str) -> None:
    for message in damaged:
        warnings.warn(f"{message}; continuing from {place} instead", stacklevel=3)


def _load(path: Path) -> dict[str, Any]:
    content = files.read_table(path, "checkpoint")
    tensors = path.with_suffix(TENSORS)
    version = content.get("version")
    if version not in (1, FORMAT):
        raise StorageError(
            f"checkpoint {str(path)!r} is of version {shown(version)}, this Etude "
            f"reads 1 and {FORMAT}: use the Etude that wrote it"
        )
    body = content.get("body")
    if not isinstance(body, dict) or _digest_json(body) != content.get("sha256"):
        raise StorageError(f"checkpoint {str(path)!r} is damaged: its digest does not match")
    if not tensors.is_file():
        raise StorageError(f"checkpoint {str(path)!r} has lost its tensors, {tensors.name}")
    if _digest(tensors) != body.get("tensors"):
        raise StorageError(f"checkpoint {str(tensors)!r} is damaged: its digest does not match")
    try:
        state = unflatten(body["state"], load_file(tensors))
    except Exception as error:
        raise StorageError(
            f"checkpoint {str(path)!r} is damaged: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(state, dict):
        raise StorageError(f"checkpoint {str(path)!r} is damaged: its state is not a table")
    if version == 1:
        warnings.warn(
            f"checkpoint {str(path)!r} is of an older Etude, which did not save how tensors are "
            "laid out in memory: the results may differ in their last digits from those of a run "
            "that was never interrupted",
            stacklevel=4,
        )
    return state


def _steps(folder: Path, suffix: str = TREE) -> list[int]:
    """Return the steps that have a checkpoint's JSON (or its tensors), newest first."""
    found = (step_of(path.stem) for path in folder.glob(f"{STEP}*{suffix}"))
    return sorted((step for step in found if step is not None), reverse=True)


def _digest_json(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(path: Path) -> str:
    try:
        with files.regular(path, "the tensors").open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StorageError(f"cannot read {str(path)!r}: {error.strerror}") from error
