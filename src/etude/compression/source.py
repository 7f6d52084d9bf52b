"""The trained network that is compressed: of a run folder, a tuning's folder, or a record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from etude import tasks
from etude.errors import BadTypeError, BadValueError, StorageError, TaskError, kind_of, shown
from etude.model_copy import copy_model
from etude.randomness import derive_seed, random_state_kept
from etude.recipe import Recipe
from etude.record import Record
from etude.storage.run_folder import RunFolder
from etude.tasks.references.ref import TaskRef
from etude.tasks.references.trusted import is_trusted
from etude.tasks.table import is_bundled
from etude.tasks.task import Task
from etude.tuning.result import TuneResult


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """What is compressed, and what it was trained with.

    Attributes:
        task: What it learned.
        recipe: How.
        model: The network, a copy on the CPU in evaluation mode.
        folder: The run folder it is from; None for one in memory.
    """

    task: Task
    recipe: Recipe
    model: nn.Module
    folder: Path | None


def trained(run: object, task: Task | None) -> TrainedNetwork:
    """Return the network of a run.

    Args:
        run: A run folder, or a `Record` or `TuneResult` with its model.
        task: What it learned; None takes the task that the run names.

    Raises:
        BadTypeError: If it is none of these.
        StorageError: If the folder has no trained model, or names code that is not trusted here.
        BadValueError: If the record has no model, or weights that are not finite.
    """
    if isinstance(run, (str, Path)):
        found = _of_folder(Path(run), task)
    elif isinstance(run, (Record, TuneResult)):
        found = _of_result(run, task)
    else:
        raise BadTypeError(
            f"run is {kind_of(run)}: give a run folder, or what train or tune returned"
        )
    for name, parameter in found.model.named_parameters():
        if parameter.is_floating_point() and not bool(torch.isfinite(parameter).all()):
            raise BadValueError(
                f"the weights of {name!r} are not finite: the run broke; train it at a lower rate"
            )
    return found


def _of_folder(folder: Path, task: Task | None) -> TrainedNetwork:
    home = RunFolder(folder)
    recipe = home.recipe() if folder.is_dir() else None
    if recipe is None:
        raise StorageError(
            f"{str(folder)!r} holds no finished run: give the folder of a run, or of a tuning, "
            "that came to its end"
        )
    if not home.has_model:
        raise StorageError(
            f"{str(folder)!r} has no trained weights: its run did not come to its end. Resume it, "
            "or train it again"
        )
    known = task or named_task(home.task.read(), str(folder))
    model = fresh_model(known, recipe.seed)
    home.read_model(model)
    return TrainedNetwork(known, recipe, model.eval(), folder)


def _of_result(run: Record | TuneResult, task: Task | None) -> TrainedNetwork:
    if run.model is None:
        raise BadValueError(
            "the record has no trained model, which is kept in memory only: give the run folder"
        )
    ref = run.record.ref if isinstance(run, TuneResult) else run.ref
    known = task or named_task(ref, "the record")
    model: nn.Module = copy_model(run.model).cpu().eval()
    return TrainedNetwork(known, run.recipe, model, None)


def named_task(ref: TaskRef | None, where: str) -> Task:
    """Return the task that a folder or record names, if it is bundled or trusted on this machine.

    Raises:
        StorageError: If it names none, or code that was not run on this machine as it is.
    """
    if ref is None:
        raise StorageError(f"{where} does not name its task: give task=, what the run learned")
    if not is_bundled(ref) and not is_trusted(ref):
        raise StorageError(
            f"{where} names the task {shown(ref.reference, 200)}, which is the code of some user "
            "and has not been run on this machine as it is; nothing of it was run. If you know the "
            "code, load it with etude.tasks.load and give it as task="
        )
    return tasks.load(ref.reference, **ref.options)


def fresh_model(task: Task, seed: int) -> nn.Module:
    """Return a task's network on the CPU, built from a recipe's seed as in training.

    Raises:
        TaskError: If it has weights on the meta device.
    """
    with random_state_kept(derive_seed(seed, "init")):
        model = task.build()
    if any(p.is_meta for p in model.parameters()):
        raise TaskError("the model is on the meta device, where weights have no values")
    return model.cpu()
