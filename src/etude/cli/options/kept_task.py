"""Loads the task of a run folder, if it is bundled, typed by the user, or trusted here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.cli.terminal.next_step import quoted
from etude.errors import BadValueError, EtudeError, StorageError, TaskError, shown

if TYPE_CHECKING:
    from etude.storage.run_folder import RunFolder
    from etude.tasks import Task
    from etude.tasks.references.ref import TaskRef


def kept_task(folder: Path, own: str | None, typed: dict[str, Any]) -> Task:
    """Return the task of a run folder, which may come from an unknown source.

    Bundled tasks are built from the folder. A user's own task is code: it is run only if the user
    types it, or has started a run with exactly this file on this machine.

    Args:
        folder: The run folder.
        own: The task's reference that the user typed, if any.
        typed: The options that the user typed.

    Raises:
        BadValueError: If options were typed without the task.
        StorageError: If the folder does not name the task, or names code that is not trusted here.
    """
    from etude import tasks
    from etude.storage.run_folder import RunFolder
    from etude.tasks.references.trusted import is_trusted
    from etude.tasks.table import is_bundled

    home = RunFolder(folder)
    if own is not None:
        task = tasks.load(own, **typed)
        if home.taken and task.ref is not None:
            home.task.write(task.ref)
        return task
    if typed:
        raise BadValueError("--with belongs to --task: the folder's own task keeps its options")
    kept = home.task.read()
    if kept is None:
        raise StorageError(_without_task(home))
    if not is_bundled(kept) and not is_trusted(kept):
        raise StorageError(_untrusted(folder, kept))
    return _built(kept, home.task.path)


def _without_task(home: RunFolder) -> str:
    """Return a message that says why there is no task to continue with, and what to do."""
    from etude.storage.tuning_folder import TuningFolder

    if not home.taken:
        return (
            f"{str(home.path)!r} holds no run to resume. If a run was stopped before it started, "
            "nothing is lost: start it again in the same folder"
        )
    verb = "tune" if TuningFolder(home.path).begun else "train"
    return (
        f"{str(home.path)!r} holds no {home.task.path.name}: its run was started in Python, with a "
        f"task that has no name outside that program. Continue there, with etude.{verb}(task, "
        f"folder={str(home.path)!r}, resume=True); or assign the task in a file and type: etude "
        f"{verb} --resume {quoted(home.path)} --task file.py:name"
    )


def _built(ref: TaskRef, path: Path) -> Task:
    from etude import tasks

    try:
        return tasks.load(ref.reference, **ref.options)
    except TaskError:
        raise
    except (EtudeError, TypeError) as error:
        raise StorageError(f"the task {str(path)!r} cannot be built: {error}") from error


def _untrusted(folder: Path, ref: TaskRef) -> str:
    """Return a message that says why a folder's task is not run, and what to type."""
    from etude.tasks.references.ref import TaskRef, is_file, source_files
    from etude.tasks.references.trusted import STATE, why_unwritten

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
        if unwritten := why_unwritten():
            why = (
                "which tasks were run on this machine cannot be noted, so that none is known "
                f"({unwritten}; set {STATE} to a folder that can be written)"
            )
    example = "file.py:name" if is_file(place) else "module:name"
    return (
        f"{str(folder)!r} names the task {shown(ref.reference, 200)}, which is the code of some "
        f"user, and {why}; nothing of it was run. If you know the code, type it: "
        f"--resume {quoted(folder)} --task {example}, with its --with KEY=VALUE options"
    )
