"""The task of a run folder to go on with: run only if it is bundled, typed, or trusted here."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude import files
from etude.errors import BadValueError, EtudeError, StorageError, TaskError, shown

if TYPE_CHECKING:
    from etude.tasks import Task
    from etude.tasks.ref import TaskRef

TASK_FILE = "task.json"


def kept_task(folder: Path, own: str | None, typed: dict[str, Any]) -> tuple[Task, str]:
    """Return the task of a run folder, which may come from somebody else, and its reference.

    Bundled tasks are built as the folder says. A task of the user's own is code: it is run if
    the user types it, or has started a run with this very file on this machine.

    Args:
        folder: The run folder.
        own: The task's reference as it was typed, if it was.
        typed: Its options as they were typed.

    Raises:
        BadValueError: If options were typed without the task.
        StorageError: If the folder does not say, or names code that is not trusted here.
    """
    from etude import tasks
    from etude.tasks.ref import TaskRef
    from etude.tasks.trusted import is_trusted, remember

    path = folder / TASK_FILE
    if own is not None:
        task = tasks.load(own, **typed)
        ref = TaskRef.of(own, typed)
        remember(ref)
        files.make_folder(folder)
        files.write_json(path, ref.plain())
        return task, own
    if typed:
        raise BadValueError("--with belongs to --task: the folder's own task keeps its options")
    if not path.exists():
        raise StorageError(
            f"{str(folder)!r} holds no run to resume: there is no {TASK_FILE} in it; a run begun "
            "in Python is resumed there, or here with --task file.py:name"
        )
    kept = TaskRef.from_plain(files.read_json(path, "the task"), f"the task {str(path)!r}")
    if not kept.bundled and not is_trusted(kept):
        raise StorageError(_untrusted(folder, kept))
    return _built(kept, path), kept.reference


def _built(ref: TaskRef, path: Path) -> Task:
    from etude import tasks

    try:
        return tasks.load(ref.reference, **ref.options)
    except TaskError:
        raise
    except (EtudeError, TypeError) as error:
        raise StorageError(f"the task {str(path)!r} cannot be built: {error}") from error


def _untrusted(folder: Path, ref: TaskRef) -> str:
    """Say why a folder's task is not run, and what to type."""
    from etude.tasks.ref import TaskRef, is_file, source_files

    place = ref.reference.rpartition(":")[0]
    if not place:
        return (
            f"{str(folder)!r} names the task {shown(ref.reference)}, which is not among the "
            "bundled ones (`etude tasks`): name the run's task with --task"
        )
    changed = bool(source_files(ref.reference)) and ref.digest
    if not changed:
        why = "it has not been run on this machine as it is"
    elif TaskRef.of(ref.reference, ref.options).digest != ref.digest:
        why = "its file has changed since"
    else:
        why = "no run was started with it on this machine"
    example = "file.py:name" if is_file(place) else "module:name"
    return (
        f"{str(folder)!r} names the task {shown(ref.reference, 200)}, which is code of somebody's "
        f"own, and {why}; nothing of it was run. If you know the code, type it: "
        f"--resume {shlex.quote(str(folder))} --task {example}, with its --with KEY=VALUE options"
    )
