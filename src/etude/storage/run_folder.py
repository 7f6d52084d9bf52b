"""The run folder: what lies where in it, who may write there, and how it is read back."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, load_model
from safetensors.torch import save_model as save_module
from torch import nn

from etude import files
from etude.errors import StorageError
from etude.recipe import Recipe
from etude.storage import checkpoint, layout
from etude.storage import task_digests as sameness
from etude.storage.model_weights import fit_buffers
from etude.storage.task_note import TaskNote
from etude.tasks.fingerprint import Parts
from etude.tasks.ref import TaskRef


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    Attributes:
        path: Where it lies; it need not exist yet.
    """

    path: Path

    @property
    def taken(self) -> bool:
        """Whether a run or a tuning has taken it. One that was killed before it began has not."""
        return any((self.path / name).exists() for name in (layout.RECIPE, layout.TUNING))

    def refuse_taken(self) -> None:
        """Refuse a folder in which a new run would write over something.

        Raises:
            StorageError: If a run has taken it, or a file of another program has a name of ours.
        """
        if self.taken:
            raise StorageError(
                f"{str(self.path)!r} already holds a run: resume it, or choose another folder"
            )
        if self.task.foreign:
            raise StorageError(
                f"{str(self.path)!r} has a {layout.TASK} that is not Etude's: choose another folder"
            )

    def clear_unused(self) -> bool:
        """Take away what a run left that never began; return whether the folder is empty."""
        if self.taken or self.task.foreign:
            return False
        for name in (layout.TASK, layout.FINGERPRINT):
            (self.path / name).unlink(missing_ok=True)
        return not any(self.path.iterdir())

    @property
    def report(self) -> Path:
        """Where its report lies."""
        return self.path / layout.REPORT

    @property
    def task(self) -> TaskNote:
        """Its note of which task it is for."""
        return TaskNote(self.path)

    def fold(self, number: int) -> RunFolder:
        """Return the folder of one fold of a trial."""
        return RunFolder(self.path / f"{layout.FOLD}{number}")

    # ---- which run -----------------------------------------------------------------------------

    def claim(self, recipe: Recipe, parts: Parts | None = None, ref: TaskRef | None = None) -> None:
        """Take the folder for a new run; it is taken once the recipe stands there.

        Args:
            recipe: The run's.
            parts: The digests of its task; None for a trial, whose tuning keeps them.
            ref: What names its task elsewhere, if anything does.

        Raises:
            StorageError: If the folder cannot be written, or already holds a run.
        """
        files.make_folder(self.path)
        self.refuse_taken()
        if parts is not None:
            self.task.begin(ref, parts)
            sameness.keep(self.path, parts)
        self.write_recipe(recipe)

    def recipe(self) -> Recipe | None:
        """Return the recipe that lies there; None without one.

        Raises:
            EtudeError: If it is damaged.
        """
        path = self.path / layout.RECIPE
        return Recipe.load(path) if path.exists() else None

    def write_recipe(self, recipe: Recipe) -> None:
        """Write the recipe: from here on the folder is taken."""
        recipe.save(self.path / layout.RECIPE)

    def kept_recipe(self, recipe: Recipe | None) -> Recipe:
        """Return the recipe of the run to go on with.

        Args:
            recipe: The recipe asked for, if any: one that differs in more than its length is
                refused.

        Returns:
            The kept recipe, in the length asked for.

        Raises:
            StorageError: If the folder holds no run, or one of another recipe.
        """
        if (self.path / layout.TUNING).exists():
            raise StorageError(
                f"{str(self.path)!r} holds a tuning, which is not trained further as a run: resume "
                "it as a tuning, or train its recipe in another folder"
            )
        kept = self.recipe()
        if kept is None:
            raise StorageError(
                f"{str(self.path)!r} holds no run to resume: there is no {layout.RECIPE} in it. If "
                "a run was stopped there before it began, nothing is lost: begin it anew in the "
                "same folder"
            )
        if recipe is not None and recipe != kept:
            ours, theirs = recipe.plain(), kept.plain()
            changed = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
            if changed == ["steps"]:
                return recipe
            raise StorageError(
                f"{str(self.path)!r} holds a run of another recipe (other {', '.join(changed)}): "
                "leave the recipe out to go on with the run's own"
            )
        return kept

    def check_task(self, parts: Parts, step: int, *, accept: bool) -> None:
        """Refuse to go on with another task than the run's, or note that it was accepted.

        Raises:
            StorageError: If a part is known to be another one; see `task_digests.check`.
        """
        sameness.check(self.path, parts, step, accept=accept)

    # ---- where it stands -----------------------------------------------------------------------

    def save_state(self, step: int, state: dict[str, Any]) -> None:
        """Write a checkpoint; see `checkpoint.save`."""
        checkpoint.save(self.path / layout.CHECKPOINTS, step, state)

    def newest_state(self) -> dict[str, Any] | None:
        """Return the newest whole checkpoint; see `checkpoint.load_newest`."""
        return checkpoint.load_newest(self.path / layout.CHECKPOINTS)

    def keep_newest_state(self) -> None:
        """Drop all checkpoints but the newest."""
        checkpoint.keep_newest(self.path / layout.CHECKPOINTS)

    def drop_states(self) -> None:
        """Drop every checkpoint."""
        shutil.rmtree(self.path / layout.CHECKPOINTS, ignore_errors=True)

    # ---- what it trained -----------------------------------------------------------------------

    def save_model(self, model: nn.Module) -> None:
        """Write a model's weights; tied weights are kept once."""

        def write(temporary: Path) -> None:
            try:
                save_module(model, str(temporary))
            except SafetensorError as error:
                raise OSError(str(error)) from error

        files.write_atomic(self.path / layout.MODEL, write)

    @property
    def has_model(self) -> bool:
        """Whether a trained model lies there."""
        return (self.path / layout.MODEL).exists()

    def read_model(self, model: nn.Module) -> None:
        """Put the weights that `save_model` wrote into a model.

        Raises:
            StorageError: If the file is damaged, or of another model.
        """
        path = self.path / layout.MODEL
        try:
            weights = load_file(files.regular(path, "the model"))
            fit_buffers(model, weights)
            load_model(model, str(path))
        except StorageError:
            raise
        except (RuntimeError, OSError, ValueError, KeyError, SafetensorError) as error:
            raise StorageError(f"{str(path)!r} is damaged, or of another task: {error}") from error
