"""The run folder: which files it has, when it may be written to, and how it is read."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from etude import files
from etude.errors import StorageError, shorten
from etude.recipe import Recipe
from etude.storage import checkpoint, layout, task_digests
from etude.storage.model_weights import load_untied, untied
from etude.storage.task_note import TaskNote
from etude.tasks.references.fingerprint import Parts
from etude.tasks.references.ref import TaskRef


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    Attributes:
        path: Its path; it need not exist yet.
    """

    path: Path

    @property
    def taken(self) -> bool:
        """Whether it belongs to a run, tuning, grid or population that has started."""
        owners = (layout.RECIPE, layout.TUNING, layout.GRID, layout.POPULATION)
        return any((self.path / name).exists() for name in owners)

    def refuse_taken(self) -> None:
        """Raise for a folder in which a new run would overwrite files.

        Raises:
            StorageError: If it holds a run, or a file of another program that has a name of ours,
                or a folder stands where a file is to be written.
        """
        if self.taken:
            raise StorageError(
                f"{str(self.path)!r} already holds a run: resume it, or choose another folder"
            )
        if self.task.foreign:
            raise StorageError(
                f"{str(self.path)!r} has a {layout.TASK} that is not Etude's: choose another folder"
            )
        self.refuse_blocked()

    def refuse_blocked(self) -> None:
        """Raise if its files could not be written, before anything is trained.

        Raises:
            StorageError: If a folder stands where a file is to be written, or a file or a link
                where a folder is.
        """
        files.refuse_folders(self.path, layout.FILES)
        files.check_inner_folder(self.path / layout.CHECKPOINTS, "the folder of checkpoints")
        files.check_inner_folder(self.path / layout.TRIALS, "the folder of trials")
        files.check_inner_folder(self.tensorboard, "the folder of event files")

    def clear_unused(self) -> bool:
        """Delete the files of a run that never started; return whether the folder is empty."""
        if self.taken or self.task.foreign:
            return False
        for name in (layout.TASK, layout.FINGERPRINT):
            (self.path / name).unlink(missing_ok=True)
        return not any(self.path.iterdir())

    @property
    def report(self) -> Path:
        """The path of its report."""
        return self.path / layout.REPORT

    @property
    def tensorboard(self) -> Path:
        """The folder of its event files."""
        return self.path / layout.TENSORBOARD

    @property
    def task(self) -> TaskNote:
        """Its note of its task."""
        return TaskNote(self.path)

    def fold(self, number: int) -> RunFolder:
        """Return the folder of one fold of a trial."""
        place = self.path / f"{layout.FOLD}{number}"
        return RunFolder(files.check_inner_folder(place, "the folder of a fold"))

    # ---- which run -----------------------------------------------------------------------------

    def claim(self, recipe: Recipe, parts: Parts | None = None, ref: TaskRef | None = None) -> None:
        """Claim the folder for a new run; it is taken as soon as the recipe is written.

        Args:
            recipe: The recipe of the run.
            parts: The digests of its task; None for a trial, whose tuning keeps them.
            ref: The reference of its task, if it has one.

        Raises:
            StorageError: If the folder cannot be written, or already holds a run.
        """
        files.make_folder(self.path)
        self.refuse_taken()
        if parts is not None:
            self.task.begin(ref)
            task_digests.keep(self.path, parts)
        self.write_recipe(recipe)

    def recipe(self) -> Recipe | None:
        """Return the recipe in the folder; None if there is none.

        Raises:
            EtudeError: If it is damaged.
        """
        path = self.path / layout.RECIPE
        return Recipe.load(path) if path.exists() else None

    def write_recipe(self, recipe: Recipe) -> None:
        """Write the recipe; from then on the folder is taken."""
        recipe.save(self.path / layout.RECIPE)

    def kept_recipe(self, recipe: Recipe | None) -> Recipe:
        """Return the recipe with which to continue the run.

        Args:
            recipe: The requested recipe, if any; it may differ only in its length.

        Returns:
            The saved recipe, with the requested length.

        Raises:
            StorageError: If the folder holds no run, or one of another recipe.
        """
        if (self.path / layout.TUNING).exists():
            raise StorageError(
                f"{str(self.path)!r} holds a tuning, which cannot be resumed as a run: resume it "
                "as a tuning, or train its recipe in another folder"
            )
        if (self.path / layout.GRID).exists():
            raise StorageError(
                f"{str(self.path)!r} holds a grid, which cannot be resumed as a run: resume it as "
                "a grid, or train its recipe in another folder"
            )
        if (self.path / layout.POPULATION).exists():
            raise StorageError(
                f"{str(self.path)!r} holds a population, which cannot be resumed as a run: resume "
                "it as a population, or train its recipe in another folder"
            )
        kept = self.recipe()
        if kept is None:
            raise StorageError(
                f"{str(self.path)!r} holds no run to resume: there is no {layout.RECIPE} in it. If "
                "a run was stopped before it started, nothing is lost: start it again in the same "
                "folder"
            )
        if recipe is not None and recipe != kept:
            ours, theirs = recipe.plain(), kept.plain()
            changed = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
            if changed == ["steps"]:
                return recipe
            raise StorageError(
                f"{str(self.path)!r} holds a run of another recipe (other {', '.join(changed)}): "
                "leave the recipe out to continue with the run's own"
            )
        return kept

    def check_task(self, parts: Parts, step: int, *, accept: bool) -> None:
        """Raise if the task is not the run's, or note that the change was accepted.

        Raises:
            StorageError: If a part is known to have changed; see `task_digests.check`.
        """
        task_digests.check(self.path, parts, step, accept=accept)

    # ---- its checkpoints -----------------------------------------------------------------------

    def save_state(self, step: int, state: dict[str, Any]) -> None:
        """Write a checkpoint; see `checkpoint.save`."""
        checkpoint.save(self.path / layout.CHECKPOINTS, step, state)

    def newest_state(self) -> dict[str, Any] | None:
        """Return the newest complete checkpoint; see `checkpoint.load_newest`.

        Raises:
            StorageError: As there; also if the run could not be saved here, see `refuse_blocked`.
        """
        self.refuse_blocked()
        return checkpoint.load_newest(self.path / layout.CHECKPOINTS)

    def keep_newest_state(self) -> None:
        """Delete all checkpoints except the newest."""
        checkpoint.keep_newest(self.path / layout.CHECKPOINTS)

    def drop_states(self) -> None:
        """Delete all checkpoints."""
        shutil.rmtree(self.path / layout.CHECKPOINTS, ignore_errors=True)

    # ---- its model -----------------------------------------------------------------------------

    def save_model(self, model: nn.Module, weights: dict[str, Tensor] | None = None) -> None:
        """Write a model's weights; tied weights are written once.

        Args:
            model: The model.
            weights: Its weights and buffers by name, if the model itself has only parts of them.
        """
        kept, others = untied(model.state_dict()) if weights is None else (weights, {})

        def write(temporary: Path) -> None:
            try:
                save_file(kept, str(temporary), metadata=others or None)
            except SafetensorError as error:
                raise OSError(str(error)) from error

        files.write_atomic(self.path / layout.MODEL, write)

    @property
    def has_model(self) -> bool:
        """Whether it has a trained model."""
        return (self.path / layout.MODEL).exists()

    def read_model(self, model: nn.Module) -> None:
        """Load the weights that `save_model` wrote into a model.

        Raises:
            StorageError: If the file is damaged, or of another model.
        """
        path = self.path / layout.MODEL
        try:
            weights = load_file(files.regular(path, "the model"))
            load_untied(model, weights)
        except StorageError:
            raise
        except (RuntimeError, OSError, ValueError, KeyError, SafetensorError) as error:
            said = shorten(" ".join(str(error).split()), 300)
            raise StorageError(f"{str(path)!r} is damaged, or of another task: {said}") from error
